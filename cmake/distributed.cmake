# Whether this torch has torch.distributed. Its headers may be there without it,
# so a program that needs one of its symbols is linked, which no header does.

include(CheckCXXSourceCompiles)

set(CMAKE_REQUIRED_LIBRARIES
    "${TORCH_MESH_TORCH_LIB_DIR}/libtorch_cpu.so"
    "${TORCH_MESH_TORCH_LIB_DIR}/libc10.so")
# What libtorch_cpu itself needs is of no interest here.
set(CMAKE_REQUIRED_LINK_OPTIONS "-Wl,--allow-shlib-undefined")
check_cxx_source_compiles(
  "namespace c10d { void unregister_all_process_groups(); }
   int main() { c10d::unregister_all_process_groups(); }"
  TORCH_MESH_HAS_DISTRIBUTED)
unset(CMAKE_REQUIRED_LIBRARIES)
unset(CMAKE_REQUIRED_LINK_OPTIONS)

# Leaves one of src/comm/c10d.cpp and no_c10d.cpp in the list named `sources`.
function(torch_mesh_choose_c10d sources)
  set(chosen "${${sources}}")
  if(TORCH_MESH_HAS_DISTRIBUTED)
    list(FILTER chosen EXCLUDE REGEX "/comm/no_c10d[.]cpp$")
  else()
    list(FILTER chosen EXCLUDE REGEX "/comm/c10d[.]cpp$")
  endif()
  set(${sources} "${chosen}" PARENT_SCOPE)
endfunction()
