# Third-party libraries: the distribution's packages, and LibTorch from its pinned wheel.
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(gRPC CONFIG QUIET)
find_package(PkgConfig REQUIRED)
if(NOT gRPC_FOUND)
  pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)
  add_library(gRPC::grpc++ INTERFACE IMPORTED)
  target_link_libraries(gRPC::grpc++ INTERFACE PkgConfig::GRPCPP)
  find_library(GRPCPP_REFLECTION_LIBRARY grpc++_reflection REQUIRED)
  add_library(gRPC::grpc++_reflection INTERFACE IMPORTED)
  target_link_libraries(gRPC::grpc++_reflection INTERFACE
    -Wl,--no-as-needed ${GRPCPP_REFLECTION_LIBRARY} -Wl,--as-needed)
endif()
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(yaml-cpp CONFIG REQUIRED)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
if(MINDFORGE_TESTS)
  find_package(GTest CONFIG REQUIRED)
  include(GoogleTest)
endif()

set(MINDFORGE_LIBTORCH "${CMAKE_SOURCE_DIR}/.deps/libtorch" CACHE PATH
    "LibTorch: lib/ and include/ of the pinned wheel (cmake/fetch_libtorch.sh)")
if(NOT EXISTS "${MINDFORGE_LIBTORCH}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch is not in ${MINDFORGE_LIBTORCH}. Run cmake/fetch_libtorch.sh"
                      " (with --cuda for the cuda preset), or set MINDFORGE_LIBTORCH.")
endif()

# Target `libtorch`. The wheel's include/ also holds an older google/protobuf and a newer fmt, so it
# goes behind the system's headers (-idirafter). Each --no-as-needed group is one word, since CMake
# drops repeated words and would separate it from its libraries: they register what is looked up at
# run time, so no symbol of theirs is needed at link time.
add_library(libtorch INTERFACE)
target_compile_options(libtorch INTERFACE
  "SHELL:-idirafter ${MINDFORGE_LIBTORCH}/include"
  "SHELL:-idirafter ${MINDFORGE_LIBTORCH}/include/torch/csrc/api/include"
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-deprecated-declarations>)
target_compile_definitions(libtorch INTERFACE USE_C10D_GLOO USE_DISTRIBUTED)
target_link_directories(libtorch INTERFACE "${MINDFORGE_LIBTORCH}/lib")
target_link_libraries(libtorch INTERFACE
  "-Wl,--push-state,--no-as-needed,-ltorch_cpu,-lc10,--pop-state"
  -Wl,--allow-shlib-undefined "-Wl,-rpath,${MINDFORGE_LIBTORCH}/lib" Threads::Threads)

if(MINDFORGE_CUDA)
  get_filename_component(libtorch_parent "${MINDFORGE_LIBTORCH}" DIRECTORY)
  set(MINDFORGE_NVIDIA "${libtorch_parent}/nvidia" CACHE PATH
      "CUDA's, NCCL's and cuDNN's libraries and headers, as cmake/fetch_libtorch.sh --cuda lays them")
  set(cuda_root "${MINDFORGE_NVIDIA}/cu13")
  foreach(needed "${MINDFORGE_LIBTORCH}/lib/libtorch_cuda.so" "${cuda_root}/lib/libcudart.so.13"
                 "${MINDFORGE_NVIDIA}/nccl/include/nccl.h")
    if(NOT EXISTS "${needed}")
      message(FATAL_ERROR "${needed} is missing. Run cmake/fetch_libtorch.sh --cuda.")
    endif()
  endforeach()
  target_compile_definitions(libtorch INTERFACE USE_C10D_NCCL MINDFORGE_CUDA)
  add_library(cudart INTERFACE)
  target_include_directories(cudart SYSTEM INTERFACE
    "${cuda_root}/include" "${cuda_root}/include/cccl")
  target_link_directories(cudart INTERFACE "${cuda_root}/lib")
  target_link_libraries(cudart INTERFACE -l:libcudart.so.13 "-Wl,-rpath,${cuda_root}/lib")
  target_include_directories(libtorch SYSTEM INTERFACE "${MINDFORGE_NVIDIA}/nccl/include")
  target_link_libraries(libtorch INTERFACE
    "-Wl,--push-state,--no-as-needed,-ltorch_cuda,-lc10_cuda,--pop-state" cudart)
endif()
