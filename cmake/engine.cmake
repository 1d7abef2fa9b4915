# Where the engine of this build goes, named by the minor release of torch that
# it is compiled against: torch promises no layout of its structures between
# minors. In a wheel each engine has a folder of its own, and several wheels can
# be joined (tools/join_wheels.py).
#
# Sets TORCH_MESH_ENGINE_NAME (torch_2_13), and TORCH_MESH_ENGINE_DIR, where the
# libraries are installed.

torch_mesh_engine_name(TORCH_MESH_ENGINE_NAME "${TORCH_MESH_TORCH_VERSION}")
message(STATUS "torch_mesh: an engine for torch ${TORCH_MESH_TORCH_VERSION}")
if(TORCH_MESH_IN_WHEEL)
  set(TORCH_MESH_ENGINE_DIR torch_mesh/engines/${TORCH_MESH_ENGINE_NAME})
  # Beside libtorch_mesh.so, and from there to the torch of the environment.
  set(TORCH_MESH_RPATH "$ORIGIN;$ORIGIN/../../../torch/lib")
else()
  set(TORCH_MESH_ENGINE_DIR lib)
  set(TORCH_MESH_RPATH "$ORIGIN;${TORCH_MESH_TORCH_LIB_DIR}")
endif()
# What the package reads before it loads anything.
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/engine.json"
     CONTENT "{\"torch\": \"@TORCH_MESH_TORCH_VERSION@\"}\n" @ONLY)
