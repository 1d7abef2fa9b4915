# Fuzzers: one executable for each property of tests/fuzz/properties.h.
#
# libFuzzer is part of clang: Debian's clang-14 and libclang-rt-14-dev, and
# -DCMAKE_CXX_COMPILER=clang++-14.

if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  message(FATAL_ERROR "TORCH_MESH_FUZZ needs clang.\n"
                      "Hint: -DCMAKE_CXX_COMPILER=clang++-14.")
endif()
if(TORCH_MESH_ENGINE)
  message(FATAL_ERROR "TORCH_MESH_FUZZ needs -DTORCH_MESH_ENGINE=OFF")
endif()

set(TORCH_MESH_FUZZ_FLAGS
    -fsanitize=address,undefined -fno-sanitize-recover=all -g -O1
    -fno-omit-frame-pointer)
target_compile_options(
  torch_mesh_core PRIVATE ${TORCH_MESH_FUZZ_FLAGS} -fsanitize=fuzzer-no-link)

file(GLOB fuzz_sources CONFIGURE_DEPENDS
     "${PROJECT_SOURCE_DIR}/tests/fuzz/*.cpp"
     "${PROJECT_SOURCE_DIR}/tests/plan/simulation.cpp")
list(FILTER fuzz_sources EXCLUDE REGEX "test_properties")
add_library(torch_mesh_properties OBJECT ${fuzz_sources})
torch_mesh_compile(torch_mesh_properties)
target_include_directories(
  torch_mesh_properties PRIVATE "${PROJECT_SOURCE_DIR}/tests")
target_compile_options(
  torch_mesh_properties
  PRIVATE ${TORCH_MESH_FUZZ_FLAGS} -fsanitize=fuzzer-no-link)

foreach(property IN ITEMS rule layout_algebra redistribution plan)
  set(fuzzer fuzz_${property})
  add_executable(
    ${fuzzer} "${PROJECT_SOURCE_DIR}/tests/fuzz/entry/libfuzzer.cpp"
              $<TARGET_OBJECTS:torch_mesh_properties>)
  torch_mesh_compile(${fuzzer})
  target_include_directories(
    ${fuzzer} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(
    ${fuzzer} PRIVATE TORCH_MESH_PROPERTY=check_${property})
  target_compile_options(
    ${fuzzer} PRIVATE ${TORCH_MESH_FUZZ_FLAGS} -fsanitize=fuzzer)
  target_link_options(
    ${fuzzer} PRIVATE -fsanitize=fuzzer,address,undefined)
  target_link_libraries(${fuzzer} PRIVATE torch_mesh_core)
endforeach()
