# C++ tests: one executable without torch, one with the engine.
#
# A wheel build leaves them out unless they are asked for by name.

find_package(GTest REQUIRED)  # Debian: libgtest-dev
if(TORCH_MESH_IN_WHEEL)
  set(by_name EXCLUDE_FROM_ALL)
endif()

function(torch_mesh_add_test name)
  cmake_parse_arguments(arg "" "" "FOLDERS;LINKS" ${ARGN})
  list(TRANSFORM arg_FOLDERS PREPEND tests/)
  torch_mesh_sources(sources ${arg_FOLDERS})
  add_executable(${name} ${by_name} ${sources})
  torch_mesh_compile(${name})
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(${name} PRIVATE ${arg_LINKS} GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} --gtest_brief=1)
  set_tests_properties(${name} PROPERTIES TIMEOUT 600)
endfunction()

# What an executable itself calls, it must link: torch's own runtime.
function(torch_mesh_link_openmp name)
  file(GLOB openmp "${TORCH_MESH_TORCH_LIB_DIR}/libgomp*.so*")
  if(NOT openmp)
    find_package(OpenMP REQUIRED)
    set(openmp OpenMP::OpenMP_CXX)
  endif()
  target_link_libraries(${name} PRIVATE ${openmp})
endfunction()

torch_mesh_add_test(
  test_torch_free
  FOLDERS core crew job rules plan lower stress fuzz
  LINKS torch_mesh_core)
# The counters are torch-free too, and hammered by tests/stress.
torch_mesh_sources(trace_sources src/trace)
target_sources(test_torch_free PRIVATE ${trace_sources})
if(TORCH_MESH_SANITIZE MATCHES thread)
  # The communicator needs torch, which is not instrumented: what only torch's
  # code touches is not watched.
  include(cmake/python.cmake)
  include(cmake/torch.cmake)
  include(cmake/distributed.cmake)
  torch_mesh_add_test(
    test_communicator FOLDERS comm LINKS torch_mesh_core)
  torch_mesh_sources(comm_sources src/shard src/comm)
  torch_mesh_choose_c10d(comm_sources)
  target_sources(test_communicator PRIVATE ${comm_sources} ${trace_sources})
  torch_mesh_use_torch(test_communicator)
  torch_mesh_link_openmp(test_communicator)
  set_tests_properties(
    test_communicator PROPERTIES
    ENVIRONMENT "TSAN_OPTIONS=ignore_noninstrumented_modules=1")
endif()
if(TORCH_MESH_ENGINE)
  torch_mesh_add_test(
    test_engine
    FOLDERS comm tensor run dispatch device random trace layout_map
    LINKS torch_mesh)
  target_compile_options(test_engine PRIVATE -fopenmp)
  torch_mesh_link_openmp(test_engine)
endif()
