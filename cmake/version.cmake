# Reads the version from pyproject.toml (a test holds torch_mesh.__version__ to
# it), and finds out whether scikit-build-core drives this build.

file(STRINGS "${CMAKE_CURRENT_SOURCE_DIR}/pyproject.toml" version_line
     REGEX "^version = \"[0-9.]+\"$")
string(REGEX MATCH "[0-9.]+" TORCH_MESH_VERSION "${version_line}")
if(NOT TORCH_MESH_VERSION)
  message(FATAL_ERROR "pyproject.toml has no line: version = \"1.2.3\"")
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             "${CMAKE_CURRENT_SOURCE_DIR}/pyproject.toml")

if(DEFINED SKBUILD)
  set(TORCH_MESH_IN_WHEEL ON)
else()
  set(TORCH_MESH_IN_WHEEL OFF)
endif()
