// line_cpp BUNDLE FRAMES [options]: a line, whole. A capture thread (here: a folder of .ppm or .pgm files, over and over,
// at a frame rate), a bounded queue, an inference thread, verdicts with their timing, and a watchdog.
//
//   --fps N          frames a second that the camera delivers (20)
//   --frames N       stop after so many (100); 0: never
//   --queue N        frames that may wait (4)
//   --timeout-ms N   a verdict that takes longer, from capture, comes too late for the reject gate (200). The gate itself
//                    compares: whoever is first, the late verdict or the watchdog, a late part is written as "undecided"
//   --threads N, --backend NAME, --precision NAME, --cache DIR: as kdx_open takes them
//
// Drop policy: where frames arrive faster than they are judged, the OLDEST waiting frame is dropped. A part that has long
// passed the reject gate is of no use to anyone; the newest can still be judged in time. Every dropped or late part is
// written as "undecided", so the PLC treats it as it treats any part that nobody vouches for.
//
// Writes one JSON line a part: {"part": 17, "verdict": "good", "score": ..., "frame_faults": 0, "reason": 0, "ms": ..., "waited_ms": ...}, and a summary to
// standard error. Exit status 0: every frame was judged in time; 1: some were not; 2: the line could not start.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <kdx/kdx.hpp>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

std::atomic<bool> stopping{false};
void stop(int) { stopping = true; }

struct Settings {
    std::string bundle, frames;
    double fps = 20, timeout_ms = 200;
    long count = 100;
    std::size_t queue = 4;
    kdx::Options options;
};

struct Picture {
    int height = 0, width = 0, channels = 0;
    std::vector<std::uint8_t> pixels;

    kdx_image image() const {
        return kdx::image_of(pixels.data(), height, width, channels == 1 ? KDX_MONO8 : KDX_RGB8);
    }
};

struct Frame {
    long part;
    Clock::time_point captured;
    const Picture *picture;  // a real camera's driver would lend its buffer here
};

// Reads binary PGM and PPM of 8 bits, which every camera's software writes.
Picture read_picture(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    Picture picture;
    int largest = 0;
    file >> kind >> picture.width >> picture.height >> largest;
    file.get();
    picture.channels = kind == "P5" ? 1 : kind == "P6" ? 3 : 0;
    const bool is_known = file && picture.channels && largest == 255 && picture.width > 0 && picture.height > 0;
    if (!is_known) throw std::runtime_error("'" + path.string() + "' is no 8-bit PGM or PPM without comments");
    picture.pixels.resize(static_cast<std::size_t>(picture.width) * picture.height * picture.channels);
    file.read(reinterpret_cast<char *>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size()));
    if (!file) throw std::runtime_error("'" + path.string() + "' ends early");
    return picture;
}

std::vector<Picture> read_pictures(const std::string &folder) {
    std::vector<std::filesystem::path> paths;
    for (const auto &entry : std::filesystem::directory_iterator(folder))
        if (entry.path().extension() == ".ppm" || entry.path().extension() == ".pgm") paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    std::vector<Picture> pictures;
    for (const auto &path : paths) pictures.push_back(read_picture(path));
    if (pictures.empty()) throw std::runtime_error("there are no .ppm or .pgm files in '" + folder + "'");
    return pictures;
}

// A queue that never grows: the newest frame always finds a place.
class Queue {
public:
    explicit Queue(std::size_t room) : room_(room) {}

    // Returns the frame that had to make room, if any.
    std::optional<Frame> push(Frame frame) {
        std::optional<Frame> dropped;
        {
            const std::lock_guard lock(mutex_);
            if (frames_.size() == room_) {
                dropped = frames_.front();
                frames_.pop_front();
            }
            frames_.push_back(frame);
        }
        ready_.notify_one();
        return dropped;
    }

    // Waits for a frame; nothing once the queue is closed and empty.
    std::optional<Frame> pop() {
        std::unique_lock lock(mutex_);
        ready_.wait(lock, [&] { return closed_ || !frames_.empty(); });
        if (frames_.empty()) return std::nullopt;
        const auto frame = frames_.front();
        frames_.pop_front();
        return frame;
    }

    void close() {
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
        }
        ready_.notify_all();
    }

private:
    const std::size_t room_;
    std::mutex mutex_;
    std::condition_variable ready_;
    std::deque<Frame> frames_;
    bool closed_ = false;
};

// Where verdicts go: here standard output, on a line the PLC. Each part is answered exactly once.
class Gate {
public:
    explicit Gate(double timeout_ms) : timeout_(timeout_ms) {}

    // Announces a part; from now on somebody owes an answer for it.
    void expect(const Frame &frame) {
        const std::lock_guard lock(mutex_);
        open_[frame.part] = frame.captured;
    }

    void judged(const Frame &frame, const kdx::Verdict &verdict, double infer_ms) {
        const std::lock_guard lock(mutex_);
        if (!open_.erase(frame.part)) return;  // the watchdog has answered
        const auto now = Clock::now();
        if (is_late(frame.captured, now)) return answer_undecided(frame.part, "late");
        const double total = Milliseconds(now - frame.captured).count();
        char score[32] = "null";  // JSON has no NaN; the reason says why there is no score
        if (std::isfinite(verdict.score))
            std::snprintf(score, sizeof score, "%.6g", static_cast<double>(verdict.score));
        std::printf(
            "{\"part\": %ld, \"verdict\": \"%s\", \"score\": %s, \"frame_faults\": %u, \"reason\": %u, \"ms\": %.3f, "
            "\"waited_ms\": %.3f}\n",
            frame.part, kdx::name_of(verdict.decision), score, verdict.frame_faults, verdict.reason, total,
            total - infer_ms);
        std::fflush(stdout);
        times_.push_back(total);
        ++counts_[kdx::name_of(verdict.decision)];
    }

    void undecided(long part, const char *why) {
        const std::lock_guard lock(mutex_);
        if (open_.erase(part)) answer_undecided(part, why);
    }

    // Answers for every part that has waited too long.
    void answer_late() {
        const std::lock_guard lock(mutex_);
        const auto now = Clock::now();
        for (auto each = open_.begin(); each != open_.end();) {
            if (!is_late(each->second, now)) {
                ++each;
                continue;
            }
            answer_undecided(each->first, "late");
            each = open_.erase(each);
        }
    }

    int summary() {
        const std::lock_guard lock(mutex_);
        std::sort(times_.begin(), times_.end());
        const auto at = [&](double share) {
            return times_.empty() ? 0.0
                                  : times_[static_cast<std::size_t>(share * static_cast<double>(times_.size() - 1))];
        };
        std::fprintf(stderr,
                     "%zu judged: %ld good, %ld to review, %ld defective, %ld undecided; %ld unanswered in time; "
                     "capture to verdict p50 %.2f ms, p99 %.2f ms, max %.2f ms\n",
                     times_.size(), counts_["good"], counts_["review"], counts_["defective"], counts_["undecided"],
                     unanswered_, at(0.5), at(0.99), at(1.0));
        return unanswered_ ? 1 : 0;
    }

private:
    bool is_late(Clock::time_point captured, Clock::time_point now) const { return now - captured > timeout_; }

    void answer_undecided(long part, const char *why) {
        std::printf("{\"part\": %ld, \"verdict\": \"undecided\", \"why\": \"%s\"}\n", part, why);
        std::fflush(stdout);
        ++unanswered_;
    }

    const Milliseconds timeout_;
    std::mutex mutex_;
    std::map<long, Clock::time_point> open_;
    std::vector<double> times_;
    std::map<std::string, long> counts_;
    long unanswered_ = 0;
};

void capture(const Settings &settings, const std::vector<Picture> &pictures, Queue &queue, Gate &gate) {
    const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / settings.fps));
    auto next = Clock::now();
    for (long part = 0; !stopping && (settings.count == 0 || part < settings.count); ++part) {
        std::this_thread::sleep_until(next);
        next += period;
        const Frame frame{part, Clock::now(), &pictures[static_cast<std::size_t>(part) % pictures.size()]};
        gate.expect(frame);
        if (const auto dropped = queue.push(frame)) gate.undecided(dropped->part, "dropped");
    }
    queue.close();
}

void judge(kdx::Detector &detector, Queue &queue, Gate &gate) {
    while (const auto frame = queue.pop()) {
        const auto started = Clock::now();
        try {
            const auto verdict = detector(frame->picture->image());
            gate.judged(*frame, verdict, Milliseconds(Clock::now() - started).count());
        } catch (const kdx::Error &error) {  // this frame is lost; the next call may succeed
            std::fprintf(stderr, "part %ld: %s\n", frame->part, error.what());
            gate.undecided(frame->part, "error");
        }
    }
}

// Answers for parts whose verdict does not come, whatever happens to the inference thread.
void watch(Gate &gate, const std::atomic<bool> &done) {
    while (!done) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        gate.answer_late();
    }
}

Settings settings_of(int argc, char **argv) {
    if (argc < 3 || argc % 2 == 0)
        throw std::runtime_error(
            "line_cpp BUNDLE FRAMES [--fps N] [--frames N] [--queue N] [--timeout-ms N] [--threads N] [--backend NAME] "
            "[--precision NAME] [--cache DIR]");
    Settings settings;
    settings.bundle = argv[1], settings.frames = argv[2];
    for (int i = 3; i < argc; i += 2) {
        const std::string name = argv[i], value = argv[i + 1];
        if (name == "--fps")
            settings.fps = std::stod(value);
        else if (name == "--frames")
            settings.count = std::stol(value);
        else if (name == "--queue")
            settings.queue = std::stoul(value);
        else if (name == "--timeout-ms")
            settings.timeout_ms = std::stod(value);
        else if (name == "--threads")
            settings.options.threads = std::stoi(value);
        else if (name == "--backend")
            settings.options.backend = value;
        else if (name == "--precision")
            settings.options.precision = value;
        else if (name == "--cache")
            settings.options.cache_dir = value;
        else
            throw std::runtime_error("there is no option " + name);
    }
    // Written so that a number that is none is refused too.
    if (!(settings.fps > 0) || settings.queue < 1 || !(settings.timeout_ms > 0) || settings.count < 0)
        throw std::runtime_error("--fps, --queue and --timeout-ms are above 0, --frames is not below");
    return settings;
}

}  // namespace

int main(int argc, char **argv) try {
    std::signal(SIGINT, stop);
    std::signal(SIGTERM, stop);
    const auto settings = settings_of(argc, argv);
    const auto pictures = read_pictures(settings.frames);
    kdx::Detector detector(settings.bundle, settings.options);
    detector(pictures.front()
                 .image());  // the first call is slow, and a camera of another size is found out before the line starts
    Queue queue(settings.queue);
    Gate gate(settings.timeout_ms);
    std::atomic<bool> done{false};
    std::thread watchdog([&] { watch(gate, done); });
    std::thread inference([&] { judge(detector, queue, gate); });
    std::thread camera([&] { capture(settings, pictures, queue, gate); });
    camera.join();
    inference.join();
    done = true;
    watchdog.join();
    return gate.summary();
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
}
