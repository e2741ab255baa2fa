// What tests ask of the fakes, and tell them.
//
// The fakes keep the rules whose breach a GPU answers with wrong values, hangs or dead processes; they are those of
// tests/kdx/runtime/tensorrt/fake_cuda.py and fake_tensorrt.py. What is queued on a stream happens only when someone waits
// for it; graphs replay over what is in memory then; a captured graph belongs to the shapes and addresses that its
// context had; whatever changes a context leaves work for the next plain enqueue, which cannot be captured.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace fake {

// Rules that were broken.
std::vector<std::string> misuses();

// How often a function was called, by its name; all of them for an empty one.
std::size_t calls(const std::string &name = "");

// Lets the count-th call from now on fail, of one function or of all that can; 0: none. Only that call fails.
void fail_at(std::size_t count, const std::string &name = "");

// The function that failed since, or empty.
std::string failed();

// Whether captures fail, as of an engine that allocates while it runs.
void refuse_captures(bool refused);

// What is still allocated.
std::size_t held();

// The score that the engine gives an image of so many bytes; every value of its map is the same.
float score_of(const unsigned char *image, std::size_t bytes);

}  // namespace fake
