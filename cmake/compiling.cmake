# Compiler flags that all targets share.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

# A target of a folder that is still empty compiles this instead.
set(TORCH_MESH_EMPTY_SOURCE "${PROJECT_BINARY_DIR}/empty.cpp")
if(NOT EXISTS "${TORCH_MESH_EMPTY_SOURCE}")
  file(WRITE "${TORCH_MESH_EMPTY_SOURCE}" "// Nothing yet.\n")
endif()

if(TORCH_MESH_SANITIZE)
  if(TORCH_MESH_ENGINE AND TORCH_MESH_SANITIZE MATCHES thread)
    # torch is not instrumented: its locks and threads would pass for races.
    message(FATAL_ERROR "TORCH_MESH_SANITIZE=${TORCH_MESH_SANITIZE} needs "
                        "-DTORCH_MESH_ENGINE=OFF")
  endif()
  add_compile_options(-fsanitize=${TORCH_MESH_SANITIZE} -g -O1
                      -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TORCH_MESH_SANITIZE})
  if(TORCH_MESH_ENGINE)
    # The type information of torch's classes is hidden inside its libraries.
    add_compile_options(-fno-sanitize=vptr)
  endif()
endif()

function(torch_mesh_compile target)
  target_include_directories(
    ${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_definitions(
    ${target} PRIVATE TORCH_MESH_VERSION="${PROJECT_VERSION}")
  # Boxed kernels and rule families share a signature, so not every parameter is
  # read; and Step{.kind = k} leaves the other members at their defaults.
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
    # Messages name files from the project's root, wherever it was built.
    "-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=")
endfunction()
