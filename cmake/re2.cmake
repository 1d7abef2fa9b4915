# Gives a target RE2, with which layout maps match their patterns.
#
# RE2 is no part of what torch_mesh promises: its headers are in no public one,
# and it is linked privately, so find_package(torch_mesh) asks for none of it.
#
# Without it patterns are matched by std::regex. The build must succeed where
# nothing can be installed, as on a GPU machine without a network; matches are
# the same, because both engines get only what pattern_text.cpp has spelt out;
# and speed is the same for patterns of plain characters and `.*`, which need no
# engine. Others take some 4 times as long.
#
# Debian: libre2-dev. Its libre2.a is not position independent, so the shared
# library is linked.

option(TORCH_MESH_RE2 "Match patterns of layout maps with RE2." ON)

function(torch_mesh_use_re2 target)
  if(TORCH_MESH_RE2)
    find_package(re2 CONFIG QUIET)  # RE2 from 2023 on, with its abseil
    if(TARGET re2::re2)
      set(library $<BUILD_INTERFACE:re2::re2>)
      set(shown "${re2_DIR}")
    else()
      find_path(TORCH_MESH_RE2_INCLUDE re2/re2.h)
      find_library(TORCH_MESH_RE2_LIBRARY NAMES libre2.so re2)
      if(TORCH_MESH_RE2_INCLUDE AND TORCH_MESH_RE2_LIBRARY)
        set(library "${TORCH_MESH_RE2_LIBRARY}")
        set(shown "${TORCH_MESH_RE2_LIBRARY}")
        target_include_directories(
          ${target} SYSTEM PRIVATE "${TORCH_MESH_RE2_INCLUDE}")
      endif()
    endif()
  endif()
  if(library)
    message(STATUS "torch_mesh: layout maps match with RE2, ${shown}")
    target_link_libraries(${target} PRIVATE ${library})
    target_compile_definitions(${target} PRIVATE TORCH_MESH_WITH_RE2)
  else()
    message(STATUS
      "torch_mesh: RE2 was not found or not wanted. Layout maps match with "
      "std::regex: the same matches, some 4 times as slow for patterns beyond "
      "plain characters and `.*`.\n"
      "   Hint: apt-get install libre2-dev, then configure again.")
  endif()
endfunction()
