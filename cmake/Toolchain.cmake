# Compiler, linker and warning settings shared by every room.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_CXX_FLAGS_RELEASE "-O2")  # CHECKs and assertions stay: we run what we tested.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(MINDFORGE_CCACHE ccache)
if(MINDFORGE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Base directory and no directory hash: build folders beside each other share their objects.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=time_macros ${MINDFORGE_CCACHE})
endif()
find_program(MINDFORGE_MOLD mold)
if(MINDFORGE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_library(mindforge_warnings INTERFACE)
target_compile_options(mindforge_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -Wno-unused-parameter
  -Wno-missing-field-initializers>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(mindforge_warnings INTERFACE -Wthread-safety -Werror=thread-safety)
endif()

if(MINDFORGE_SANITIZE)
  add_compile_options(-fsanitize=${MINDFORGE_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${MINDFORGE_SANITIZE})
  if(MINDFORGE_SANITIZE MATCHES "thread")
    # Under this macro protobuf's map fields gain a member that the distribution's libprotobuf, built
    # without it, does not have: reflection over a map would then crash.
    add_compile_options(-U__SANITIZE_THREAD__)
    add_compile_definitions(MINDFORGE_TSAN)
  endif()
  if(MINDFORGE_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()
if(MINDFORGE_TIDY)
  find_program(MINDFORGE_CLANG_TIDY clang-tidy REQUIRED)
  set(CMAKE_CXX_CLANG_TIDY ${MINDFORGE_CLANG_TIDY} --quiet)
endif()
