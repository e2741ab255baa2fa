/* The bundle that a test opens, and the exit status of a test that was skipped. For C and C++. */
#ifndef KDX_TEST_BUNDLE_H
#define KDX_TEST_BUNDLE_H

#include <stdio.h>
#include <stdlib.h>

/* CMake's SKIP_RETURN_CODE of every test. */
#define KDX_TEST_SKIPPED 77

static inline void skip_test(const char *why) {
    fprintf(stderr, "skipped: %s\n", why);
    exit(KDX_TEST_SKIPPED);
}

/* Returns the bundle that KDX_TEST_BUNDLE names in the environment, or else the fixture of this
 * repository. Ends the program as skipped if there is none. */
static inline const char *test_bundle(void) {
    const char *bundle = getenv("KDX_TEST_BUNDLE");
    if (bundle) return bundle;
    FILE *index = fopen(KDX_FIXTURE_BUNDLE "/bundle.json", "rb");
    if (!index) skip_test("there is no fixture; name a bundle in KDX_TEST_BUNDLE");
    if (index) fclose(index);
    return KDX_FIXTURE_BUNDLE;
}

/* Returns the public key that KDX_TEST_KEY names in the environment, with which the bundle in
 * KDX_TEST_BUNDLE was signed. Ends the program as skipped if there is none. */
static inline const char *test_key(void) {
    const char *key = getenv("KDX_TEST_KEY");
    if (!key) skip_test("name a signed bundle in KDX_TEST_BUNDLE and its public key in KDX_TEST_KEY");
    return key;
}

#endif
