# Finds the torch that this build compiles against, or ends it.

include(cmake/torch_meshTorch.cmake)
if(TORCH_MESH_TORCH_PROBLEM)
  message(FATAL_ERROR "${TORCH_MESH_TORCH_PROBLEM}")
endif()
