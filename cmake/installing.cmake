# Installs library, headers and CMake package: into the wheel under torch_mesh/,
# or under the prefix of a plain `cmake --install`.

include(CMakePackageConfigHelpers)

if(TORCH_MESH_IN_WHEEL)
  set(root torch_mesh/)
else()
  set(root "")
endif()
set(package_dir ${root}share/cmake/torch_mesh)

install(TARGETS torch_mesh EXPORT torch_meshTargets
        LIBRARY DESTINATION ${TORCH_MESH_ENGINE_DIR}
        INCLUDES DESTINATION ${root}include)
if(TARGET _C)
  install(TARGETS _C LIBRARY DESTINATION ${TORCH_MESH_ENGINE_DIR})
endif()
if(TORCH_MESH_IN_WHEEL)
  install(FILES "${PROJECT_BINARY_DIR}/engine.json"
          DESTINATION ${TORCH_MESH_ENGINE_DIR})
endif()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/torch_mesh"
        DESTINATION ${root}include
        FILES_MATCHING PATTERN "*.h")

install(EXPORT torch_meshTargets NAMESPACE torch_mesh::
        DESTINATION ${package_dir}/${TORCH_MESH_ENGINE_NAME})
configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/torch_meshConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/torch_meshConfig.cmake"
  INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/torch_meshConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES
        "${PROJECT_BINARY_DIR}/torch_meshConfig.cmake"
        "${PROJECT_BINARY_DIR}/torch_meshConfigVersion.cmake"
        "${PROJECT_SOURCE_DIR}/cmake/torch_meshTorch.cmake"
        DESTINATION ${package_dir})
