# A room is a folder and a CMake target; see docs/ARCHITECTURE.md for what each may touch.

# mindforge_add_room(NAME SOURCES a.cc … [PUBLIC deps…] [PRIVATE deps…])
# A static library `NAME`, included as "folder/header.h" from the repository's root.
function(mindforge_add_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ROOM_SOURCES})
  target_include_directories(${name} PUBLIC "${CMAKE_SOURCE_DIR}")
  target_link_libraries(${name} PUBLIC ${ROOM_PUBLIC} PRIVATE ${ROOM_PRIVATE} mindforge_warnings)
endfunction()

# mindforge_add_program(NAME SOURCES … DEPS …): a binary in build/<preset>/bin.
function(mindforge_add_program name)
  cmake_parse_arguments(PROGRAM "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${PROGRAM_SOURCES})
  target_link_libraries(${name} PRIVATE ${PROGRAM_DEPS} mindforge_warnings)
endfunction()

# mindforge_add_test(NAME SOURCES … DEPS … [LABELS …] [TIMEOUT seconds])
# One GoogleTest binary and one ctest entry of that name. It runs with tests/data in
# MINDFORGE_TEST_DATA and the programs' folder in MINDFORGE_BIN.
function(mindforge_add_test name)
  cmake_parse_arguments(TEST "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${TEST_SOURCES})
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  target_link_libraries(${name} PRIVATE ${TEST_DEPS} GTest::gmock GTest::gtest_main
    mindforge_warnings)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 300)
  endif()
  mindforge_test_properties(${name} TIMEOUT ${TEST_TIMEOUT} LABELS ${TEST_LABELS})
endfunction()

# mindforge_add_script_test(NAME COMMAND … [LABELS …] [TIMEOUT seconds])
function(mindforge_add_script_test name)
  cmake_parse_arguments(TEST "" "TIMEOUT" "COMMAND;LABELS" ${ARGN})
  add_test(NAME ${name} COMMAND ${TEST_COMMAND} WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  if(NOT TEST_TIMEOUT)
    set(TEST_TIMEOUT 300)
  endif()
  mindforge_test_properties(${name} TIMEOUT ${TEST_TIMEOUT} LABELS ${TEST_LABELS})
endfunction()

function(mindforge_test_properties name)
  cmake_parse_arguments(TEST "" "TIMEOUT" "LABELS" ${ARGN})
  set(environment
    "MINDFORGE_TEST_DATA=${CMAKE_SOURCE_DIR}/tests/data"
    "MINDFORGE_SOURCE=${CMAKE_SOURCE_DIR}"
    "MINDFORGE_BIN=${CMAKE_BINARY_DIR}/bin"
    "ASAN_OPTIONS=detect_leaks=1:suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/asan.supp"
    "LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/lsan.supp"
    "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/tsan.supp:halt_on_error=1")
  set_tests_properties(${name} PROPERTIES TIMEOUT ${TEST_TIMEOUT} ENVIRONMENT "${environment}")
  if(TEST_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${TEST_LABELS}")
  endif()
endfunction()
