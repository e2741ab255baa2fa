// CHECK(condition): counts what does not hold and says where; the program's status tells whether all did.
#pragma once

#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            ++failures;                                                                    \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                                  \
    } while (0)
