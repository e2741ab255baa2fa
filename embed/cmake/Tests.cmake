# How ctest runs the tests. A test that needs a bundle opens the one that the environment names in
# KDX_TEST_BUNDLE, or else the fixture of this repository. Without a bundle, ctest reports it as
# skipped. Two tests need a bundle that is signed, and its public key in KDX_TEST_KEY.
set(kdx_fixture_bundle "${PROJECT_SOURCE_DIR}/../tests/fixtures/schema1/stpm")
set(kdx_skipped 77)  # exit status of a test that was skipped

# OpenVINO and TBB are not instrumented. What they keep until the process ends is no leak of kdx,
# and the thread sanitizer sees neither their locks nor reports on them. With TBB's own setting, TBB
# does not load a library in a way that sanitizers refuse.
set(kdx_test_environment
  "ASAN_OPTIONS=detect_leaks=1:abort_on_error=1:allocator_may_return_null=1"
  "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/leaks.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=halt_on_error=1:exitcode=66:ignore_noninstrumented_modules=1"
  "TBB_ENABLE_SANITIZERS=1")

add_custom_target(kdx_tests)         # builds every program that ctest runs
add_custom_target(kdx_thread_tests)  # builds those with the label "threads", for the thread sanitizer

# kdx_add_test(NAME [PROGRAM program] [LABELS label...] [JUDGES] [ARGUMENTS argument...]): lets ctest
# run a program, kdx_NAME by default. JUDGES: the test runs the graph of the bundle, for which it
# needs OpenVINO.
function(kdx_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "JUDGES" "PROGRAM" "LABELS;ARGUMENTS")
  set(program "kdx_${name}")
  if(arg_PROGRAM)
    set(program "${arg_PROGRAM}")
  endif()
  target_include_directories(${program} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(${program} PRIVATE
    KDX_FIXTURE_BUNDLE="${kdx_fixture_bundle}" KDX_TEST_FILES="${PROJECT_SOURCE_DIR}/tests")
  add_test(NAME ${name} COMMAND ${program} ${arg_ARGUMENTS})
  set_tests_properties(${name} PROPERTIES
    SKIP_RETURN_CODE ${kdx_skipped} LABELS "${arg_LABELS}" ENVIRONMENT "${kdx_test_environment}")
  if(arg_JUDGES AND NOT KDX_WITH_OPENVINO)
    set_tests_properties(${name} PROPERTIES DISABLED TRUE)
  endif()
  add_dependencies(kdx_tests ${program})
  if("threads" IN_LIST arg_LABELS)
    add_dependencies(kdx_thread_tests ${program})
  endif()
endfunction()
