# Finds libtorch and defines how a target uses it. The build includes this file,
# and so does the installed CMake package.
#
# Where to look, in this order: Torch_DIR and CMAKE_PREFIX_PATH, as for every
# package; the torch beside an installed torch_mesh; the Python of this build.
#
# Sets TORCH_MESH_TORCH_LIB_DIR and TORCH_MESH_TORCH_VERSION (2.13.0); or, where
# there is no such torch, TORCH_MESH_TORCH_PROBLEM, a sentence: find_package(...
# QUIET) is not to end in an error.

# Sets `out` to what the engine for a version of torch is called, torch_2_13;
# `name` of python/torch_mesh/engines.py says the same.
function(torch_mesh_engine_name out version)
  string(REGEX REPLACE "^([0-9]+)[.]([0-9]+).*" "torch_\\1_\\2"
         name "${version}")
  set(${out} "${name}" PARENT_SCOPE)
endfunction()

set(TORCH_MESH_TORCH_PROBLEM "")
set(_torch_mesh_hints "")
set(_torch_mesh_beside
    "${CMAKE_CURRENT_LIST_DIR}/../../../../torch/share/cmake")
if(EXISTS "${_torch_mesh_beside}")
  list(APPEND _torch_mesh_hints "${_torch_mesh_beside}")
elseif(Python_EXECUTABLE)
  # find_spec, not import: nothing of torch runs.
  execute_process(
    COMMAND
      "${Python_EXECUTABLE}" -c
      "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0], end='')"
    OUTPUT_VARIABLE _torch_mesh_python_torch
    ERROR_QUIET)
  if(_torch_mesh_python_torch)
    list(APPEND _torch_mesh_hints "${_torch_mesh_python_torch}/share/cmake")
  endif()
endif()

# torch's own package ends the configure step if torch was built with CUDA and
# the machine has no CUDA toolkit, or a part of one. No source of torch_mesh needs
# the toolkit, so there the libraries are taken without the package.
find_path(
  _torch_mesh_torch_config TorchConfig.cmake
  PATHS "${Torch_DIR}" NO_DEFAULT_PATH NO_CACHE)
find_path(
  _torch_mesh_torch_config TorchConfig.cmake
  HINTS ${_torch_mesh_hints}
  PATH_SUFFIXES Torch share/cmake/Torch NO_CACHE)
if(NOT _torch_mesh_torch_config)
  string(CONCAT TORCH_MESH_TORCH_PROBLEM
    "torch_mesh: torch was not found.\n"
    "Hint: pip install torch, or set -DTorch_DIR=.../share/cmake/Torch.")
  return()
endif()
get_filename_component(
  _torch_mesh_root "${_torch_mesh_torch_config}/../../.." ABSOLUTE)
set(TORCH_MESH_TORCH_LIB_DIR "${_torch_mesh_root}/lib")

# What torch's headers say.
set(_torch_mesh_header
    "${_torch_mesh_root}/include/torch/headeronly/version.h")
if(NOT EXISTS "${_torch_mesh_header}")
  string(CONCAT TORCH_MESH_TORCH_PROBLEM
    "torch_mesh: no ${_torch_mesh_header}: torch is older than 2.11.\n"
    "Hint: pip install -U torch.")
  return()
endif()
file(STRINGS "${_torch_mesh_header}" _torch_mesh_lines
     REGEX "^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+$")
set(TORCH_MESH_TORCH_VERSION "")
foreach(_torch_mesh_part IN ITEMS MAJOR MINOR PATCH)
  string(REGEX MATCH "TORCH_VERSION_${_torch_mesh_part} ([0-9]+)"
         _torch_mesh_found "${_torch_mesh_lines}")
  list(APPEND TORCH_MESH_TORCH_VERSION "${CMAKE_MATCH_1}")
endforeach()
list(JOIN TORCH_MESH_TORCH_VERSION "." TORCH_MESH_TORCH_VERSION)

if(TARGET torch)
  # The including project found it already.
elseif(NOT EXISTS "${TORCH_MESH_TORCH_LIB_DIR}/libtorch_cuda.so")
  set(Torch_DIR "${_torch_mesh_torch_config}")
  find_package(Torch QUIET)
  if(NOT Torch_FOUND)
    string(CONCAT TORCH_MESH_TORCH_PROBLEM
      "torch_mesh: ${Torch_DIR} does not give torch: "
      "${Torch_NOT_FOUND_MESSAGE}\n"
      "Hint: find_package(Torch) says more.")
    return()
  endif()
else()
  foreach(_torch_mesh_library IN ITEMS c10 torch_cpu torch)
    add_library(${_torch_mesh_library} SHARED IMPORTED)
    set_target_properties(${_torch_mesh_library} PROPERTIES
      IMPORTED_LOCATION
      "${TORCH_MESH_TORCH_LIB_DIR}/lib${_torch_mesh_library}.so"
      INTERFACE_INCLUDE_DIRECTORIES
      "${_torch_mesh_root}/include;${_torch_mesh_root}/include/torch/csrc/api/include"
      INTERFACE_COMPILE_DEFINITIONS "USE_DISTRIBUTED;USE_C10D_GLOO")
  endforeach()
  target_link_libraries(torch_cpu INTERFACE c10)
  target_link_libraries(torch INTERFACE torch_cpu)
endif()

# at::parallel_for is a template over OpenMP: the caller is compiled with
# -fopenmp, and must run in the OpenMP runtime that torch itself runs in. That
# has another name in each build of torch, so none is linked: its symbols are
# found in the one that libtorch brings.
function(torch_mesh_use_torch target)
  target_link_libraries(${target} PUBLIC torch)
  get_filename_component(packages "${_torch_mesh_root}" DIRECTORY)
  target_compile_options(${target} PRIVATE
    -fopenmp
    # Asserts in torch's headers name them from the environment's root. The last
    # map counts: after that of torch_mesh_compile.
    "-ffile-prefix-map=${packages}/=")
endfunction()
