# Our own CUDA code: nvcc compiles it, the C++ compiler links it, CMake's CUDA language is not used (it
# wants a whole toolkit). Only with MINDFORGE_CUDA.
set(MINDFORGE_CUDA_ARCHITECTURES "80;86;89;90;100;120" CACHE STRING
    "Compute capabilities that CUDA code is compiled for; what is newer takes the first one's PTX")
find_program(MINDFORGE_NVCC nvcc HINTS "${MINDFORGE_NVIDIA}/cu13/bin" /usr/local/cuda/bin)
if(NOT MINDFORGE_NVCC)
  message(FATAL_ERROR "There is no nvcc. Run cmake/fetch_libtorch.sh --cuda, or set MINDFORGE_NVCC.")
endif()

# mindforge_add_cuda_room(NAME SOURCES a.cu … [PUBLIC deps…])
# A static library of CUDA files. One named *_sm90a.cu uses what only Hopper has and is compiled for
# it alone.
function(mindforge_add_cuda_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;PUBLIC" ${ARGN})
  list(GET MINDFORGE_CUDA_ARCHITECTURES 0 oldest)
  set(portable -gencode arch=compute_${oldest},code=compute_${oldest})
  foreach(architecture ${MINDFORGE_CUDA_ARCHITECTURES})
    list(APPEND portable -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  foreach(source ${ROOM_SOURCES})
    set(targets ${portable})
    if(source MATCHES "_sm90a\\.cu$")
      set(targets -gencode arch=compute_90a,code=sm_90a)
    endif()
    get_filename_component(file "${source}" NAME)
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${file}.o")
    add_custom_command(OUTPUT "${object}"
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} "${MINDFORGE_NVCC}" -std=c++20 -O3 -compress-mode=size
        -Xcompiler -fPIC,-Wall ${targets} -I "${CMAKE_SOURCE_DIR}" -MD -MF "${object}.d" -c "${source}"
        -o "${object}"
      DEPENDS "${source}" DEPFILE "${object}.d" VERBATIM
      COMMENT "Compiling ${file} for ${MINDFORGE_CUDA_ARCHITECTURES}")
    list(APPEND objects "${object}")
  endforeach()
  add_library(${name} STATIC ${objects})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  target_include_directories(${name} PUBLIC "${CMAKE_SOURCE_DIR}")
  target_link_libraries(${name} PUBLIC cudart ${ROOM_PUBLIC})
endfunction()
