// kdx_internals NAME: runs one of the tests of functions that the library does not export. They are
// one program, because each of them alone would compile and link most of the library again.
#include "internals.h"

#include <cstdio>
#include <exception>
#include <map>
#include <string>

int main(int argc, char **argv) try {
    const std::map<std::string, int (*)()> tests = {{"units", units},
                                                    {"engines", engines},
                                                    {"bundle_files", bundle_files},
                                                    {"manifests", manifests},
                                                    {"signed_engines", signed_engines},
                                                    {"selftests", selftests},
                                                    {"tensorrt", tensorrt}};
    const auto test = argc == 2 ? tests.find(argv[1]) : tests.end();
    if (test != tests.end()) return test->second();
    std::fprintf(stderr, "%s NAME, one of:", argv[0]);
    for (const auto &[name, run] : tests) std::fprintf(stderr, " %s", name.c_str());
    std::fprintf(stderr, "\n");
    return 2;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
