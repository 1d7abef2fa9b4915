# Finds the Python whose torch this build uses, and adds its extension module.

# scikit-build-core names its Python; else an active environment's is taken, or
# the project's own.
if(NOT DEFINED Python_EXECUTABLE AND NOT DEFINED ENV{VIRTUAL_ENV}
   AND EXISTS "${PROJECT_SOURCE_DIR}/.venv/bin/python")
  set(Python_EXECUTABLE "${PROJECT_SOURCE_DIR}/.venv/bin/python")
endif()
if(TORCH_MESH_PYTHON)
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
else()
  find_package(Python 3.11 COMPONENTS Interpreter)
endif()

function(torch_mesh_add_python_module name)
  Python_add_library(${name} MODULE WITH_SOABI ${ARGN})
  torch_mesh_compile(${name})
  torch_mesh_use_torch(${name})
  find_library(
    TORCH_MESH_TORCH_PYTHON torch_python
    PATHS "${TORCH_MESH_TORCH_LIB_DIR}" NO_DEFAULT_PATH NO_CACHE REQUIRED)
  target_link_libraries(
    ${name} PRIVATE torch_mesh "${TORCH_MESH_TORCH_PYTHON}")
  # torch/include holds the pybind11 that torch's casters were compiled with.
  set_target_properties(${name} PROPERTIES
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    INSTALL_RPATH "${TORCH_MESH_RPATH}")
endfunction()
