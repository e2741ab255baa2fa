// How tests control the fakes of CUDA and TensorRT, and what they ask them. The fakes check the
// rules whose violation leads to wrong values, hangs or dead processes on a GPU. They are the same
// rules as in the Python fakes, fake_cuda.py and fake_tensorrt.py. Queued work runs only when a
// caller waits for its stream. A graph replays with the memory content of that moment. A captured
// graph is bound to the shapes and addresses that its context had. Every change of a context leaves
// work for the next plain enqueue, which cannot be captured.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace fake {

// Violations of the rules so far.
std::vector<std::string> misuses();

// Number of calls of a function; of all functions for an empty name.
std::size_t calls(const std::string &name = "");

// Lets one call fail: the count-th from now, of one function, or of all functions for an empty
// name. 0: none fails.
void fail_at(std::size_t count, const std::string &name = "");

// Name of the function that failed since fail_at(); empty if none did.
std::string failed();

// Lets captures fail, as they do for an engine that allocates memory while it runs.
void refuse_captures(bool refused);

// Number of objects that are still allocated.
std::size_t held();

// The score that the engine returns for an image. Every value of the map equals the score.
float score_of(const unsigned char *image, std::size_t bytes);

}  // namespace fake
