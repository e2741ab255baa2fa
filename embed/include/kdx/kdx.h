/* kdx in C: a bundle in, verdicts out.
 *
 * The library reads the bundle that `kdx export` and `kdx calibrate` wrote, checks every hash, and gives the score, map
 * and verdict that Python gives on the same backend.
 *
 * Rules of the interface
 *   - Every function returns a kdx_status; 0 is KDX_OK. kdx_last_error() then says in words what went wrong, to the
 *     thread in which it did. Nothing is thrown, nothing is printed, no signal handler is set.
 *   - Memory belongs to the caller: images, verdicts and maps are read or written during a call and not kept. Only
 *     kdx_open and kdx_open_signed allocate a handle, and only kdx_close frees it.
 *   - A structure begins with its size: set it with KDX_INIT. A library of a later version then knows which fields its
 *     caller has. Reserved and unknown fields are zero.
 *   - An error leaves nothing that lets a part pass. Before anything else is looked at, and again where a call fails, every
 *     verdict becomes KDX_UNDECIDED with a score, threshold and margin of NaN. On an error maps are NaN everywhere, a
 *     description is of nothing, a selftest has not passed and there are 0 regions. What cannot be written: what a null
 *     pointer was given for, and maps of a null detector or with a row_stride that is too small.
 *   - kdx_infer and its kin, kdx_describe, kdx_regions and kdx_selftest may be called on one detector from several
 *     threads at once; each call has a runtime request of its own. kdx_close may not be called while another call is under way.
 *   - There is no state but the handle's, and the text of kdx_last_error, of which every thread has its own.
 */
#ifndef KDX_KDX_H
#define KDX_KDX_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(KDX_BUILDING)
#define KDX_API __declspec(dllexport)
#else
#define KDX_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define KDX_API __attribute__((visibility("default")))
#else
#define KDX_API
#endif

#ifdef __cplusplus
#define KDX_NOEXCEPT noexcept
extern "C" {
#else
#define KDX_NOEXCEPT
#endif

/* Raised when a caller that was compiled against an older header can no longer be served. */
#define KDX_ABI_VERSION 1

/* Zeroes a structure of this interface and sets its size: kdx_options options; KDX_INIT(options); */
#define KDX_INIT(structure)                                                                          \
    do {                                                                                             \
        unsigned char *kdx_bytes_ = (unsigned char *)&(structure);                                   \
        size_t kdx_byte_;                                                                            \
        for (kdx_byte_ = 0; kdx_byte_ < sizeof(structure); ++kdx_byte_) kdx_bytes_[kdx_byte_] = 0;   \
        (structure).struct_size = (uint32_t)sizeof(structure);                                       \
    } while (0)

typedef struct kdx_detector kdx_detector;

typedef int32_t kdx_status;
enum {
    KDX_OK = 0,
    KDX_ERROR_ARGUMENT = 1, /* a null pointer, a size or an option that cannot be */
    KDX_ERROR_IMAGE = 2,    /* an image of another size, layout or format than the detector's */
    KDX_ERROR_BUNDLE = 3,   /* the bundle is incomplete, altered, too new, or reaches outside its folder */
    KDX_ERROR_BACKEND = 4,  /* the runtime is missing, failed (the next call may succeed), or does not decide here as at export */
    KDX_ERROR_MEMORY = 5,   /* out of memory */
    KDX_ERROR_INTERNAL = 6  /* a bug in kdx */
};

/* What is said of an image. Only KDX_GOOD lets a part pass; memory that was never written says KDX_UNDECIDED. */
typedef int32_t kdx_decision;
enum { KDX_UNDECIDED = 0, KDX_GOOD = 1, KDX_DEFECTIVE = 2, KDX_REVIEW = 3 };

/* Why a frame shows no part, whatever it scored. Such a frame is never good. From KDX_FRAME_DARK on a channel is compared
 * with what calibration learned of good images; a library of a later version may know further reasons. */
enum {
    KDX_FRAME_BLACK = 1,        /* nearly every sample is at the sensor's black */
    KDX_FRAME_WHITE = 2,        /* likewise at its white */
    KDX_FRAME_UNIFORM = 4,      /* all samples are the same */
    KDX_FRAME_SATURATED = 8,    /* burnt out */
    KDX_FRAME_DARK = 16,        /* much darker than good images */
    KDX_FRAME_BRIGHT = 32,      /* much brighter */
    KDX_FRAME_FLAT = 64,        /* much less contrast */
    KDX_FRAME_NOISE = 128,      /* noise without structure: a covered lens */
    KDX_FRAME_SMOOTH = 256,     /* gradients without details: a covered lens that lets in light at one side */
    KDX_FRAME_PARTLY_BLACK = 512 /* more of it is black than in good images: half a transfer */
};

/* Why a decision is KDX_UNDECIDED; where several hold, the first of these. KDX_REASON_NONE where it is not, or where the
 * call failed. NOT_FINITE: map or score hold NaN or infinity; BELOW_RANGE: they are below any that the method can give;
 * SCORE_MISMATCH, the third in that order: the score is not the maximum of the map, as the method says it is. All three
 * mean that the runtime, its driver or the graph is at fault; the score is NaN then. */
enum {
    KDX_REASON_NONE = 0,
    KDX_REASON_NOT_FINITE = 1,
    KDX_REASON_BELOW_RANGE = 2,
    KDX_REASON_NO_THRESHOLD = 3, /* the bundle is not calibrated, or region or level map were changed since */
    KDX_REASON_OTHER_REGION = 4, /* the threshold is of another region of interest than this call's */
    KDX_REASON_FRAME = 5,        /* the frame shows no part: see frame_faults */
    KDX_REASON_SCORE_MISMATCH = 6
};

typedef int32_t kdx_pixel_format;
enum { KDX_RGB8 = 1, KDX_BGR8 = 2, KDX_MONO8 = 3 };

/* Whether pixels of the camera are excluded (`kdx roi`). Where the region of interest was changed after the calibration,
 * every decision is KDX_UNDECIDED. */
enum { KDX_ROI_NONE = 0, KDX_ROI_SET = 1, KDX_ROI_CHANGED = 2 };

typedef struct kdx_options {
    uint32_t struct_size;
    int32_t threads;       /* of one inference; 0 leaves it to the runtime (one per physical core) */
    const char *backend;   /* "openvino", "tensorrt"; NULL for the first that was compiled in */
    const char *precision; /* "fp32", "fp16", "bf16", "int8"; NULL for the fastest that the bundle holds, that is
                              calibrated wherever FP32 is, and that this machine computes */
    const char *cache_dir; /* where compiled models are kept, so that the next start takes half a second; NULL: nowhere */
    int32_t device;        /* GPU, counted from 0 */
    /* Numbers of images that kdx_infer_batch will be called with, of which there are batch_size_count; NULL and 0: none.
     * kdx_open compiles what they need, compares the golden images in such batches too, and keeps it in memory. Another number is compiled by the first call with it, which
     * takes that much longer; calls with other numbers, single images among them, do not wait for it. Single images are
     * always compiled by kdx_open. Of a bundle for large frames, 1 stands for a frame and all its tiles. */
    const int32_t *batch_sizes;
    size_t batch_size_count;
} kdx_options;

typedef struct kdx_description {
    uint32_t struct_size;
    int32_t height, width, channels; /* of the images that kdx_infer takes */
    kdx_pixel_format format;         /* in which they need not be copied */
    int32_t map_height, map_width;
    int32_t max_batch; /* images that are judged at once; longer batches are split; 1 of frames that are cut into tiles */
    double threshold;        /* NaN where the bundle is not calibrated for this precision and backend, or region or
                                level map were changed since */
    double review_threshold; /* above it, up to the threshold, somebody should look; NaN without such a band */
    double pixel_threshold; /* the map value that hardly any good image reaches anywhere; NaN where unknown */
    double field_of_view;   /* share of each side of the image, centred, that the map covers */
    char backend[24];
    char precision[8];
    int32_t roi; /* KDX_ROI_... */
    char said[256]; /* why every verdict is undecided though the bundle was calibrated, or what is not known of its
                       threshold; empty for nothing. Write it into the line's log at the start. */
} kdx_description;

typedef struct kdx_image {
    const uint8_t *data;
    int32_t height, width;
    kdx_pixel_format format; /* RGB8 and BGR8 are both taken, whichever the detector was exported for */
    int64_t row_stride;      /* bytes from one row to the next; 0 for rows without padding */
} kdx_image;

/* Where an anomaly map goes: map_height rows of map_width float values. */
typedef struct kdx_map {
    float *data;
    int64_t row_stride; /* bytes from one row to the next; 0 for rows without padding */
} kdx_map;

typedef struct kdx_verdict {
    uint32_t struct_size;
    kdx_decision decision;
    uint32_t frame_faults; /* KDX_FRAME_... */
    float score;
    double threshold; /* NaN where the bundle is not calibrated */
    double margin;    /* score / threshold - 1: below zero on the good side; NaN without a threshold */
    uint32_t reason;  /* KDX_REASON_...: why the decision is KDX_UNDECIDED */
    uint32_t reserved;
} kdx_verdict;

/* A connected part of a map above the pixel threshold, in pixels of the camera. */
typedef struct kdx_region {
    double area;
    double area_mm2; /* NaN where the size of a pixel is not known */
    double top, left, height, width;
    double peak; /* largest value of the map in it, and where that is */
    double peak_row, peak_column;
} kdx_region;

typedef struct kdx_selftest_report {
    uint32_t struct_size;
    int32_t passed; /* 1: run; 0: do not */
    int32_t images; /* golden images compared */
    int32_t flips;  /* verdicts that differ from the reference's; -1 without a threshold */
    double score_difference, score_allowed; /* largest, relative; see `kdx verify` */
    double map_difference, map_allowed;
    double latency_ms; /* at the percentile that was asked for, image to verdict and map */
    double median_ms;
    int32_t calls;
    char said[256]; /* what failed, in words; empty where it passed */
} kdx_selftest_report;

/* Opens a bundle: checks schema, paths and the hash of every file, compiles the graph, and judges the golden images one by
 * one: KDX_ERROR_BACKEND where they differ from the reference by more than `kdx verify` allows. What was hashed is what
 * runs, for every batch size, also where the bundle's files are replaced later.
 * options may be NULL. *detector is NULL unless KDX_OK is returned. */
KDX_API kdx_status kdx_open(const char *bundle, const kdx_options *options, kdx_detector **detector) KDX_NOEXCEPT;

/* Opens a bundle as kdx_open does, if it is signed by one of some keys (`kdx sign`): KDX_ERROR_BUNDLE where it is not signed,
 * is signed by another key, or was altered since. public_keys are count texts (several while one key replaces another): each
 * the path of a PEM file, or what is in one. Engines are opened only if the signature covers them, and cache_dir is taken only
 * where nobody else can write. KDX_ERROR_ARGUMENT where no key is given, one cannot be read, or the library was built without
 * OpenSSL: the request is never ignored. That is why this is a function and no option, which an older library would not see. */
KDX_API kdx_status kdx_open_signed(const char *bundle, const kdx_options *options, const char *const *public_keys,
                                   size_t count, kdx_detector **detector) KDX_NOEXCEPT;

/* Says what a detector takes and gives. */
KDX_API kdx_status kdx_describe(const kdx_detector *detector, kdx_description *description) KDX_NOEXCEPT;

/* Judges one image. map may be NULL. */
KDX_API kdx_status kdx_infer(kdx_detector *detector, const kdx_image *image, kdx_verdict *verdict,
                             const kdx_map *map) KDX_NOEXCEPT;

/* Judges one image in a region of interest of this call's own: a KDX_MONO8 image of the camera's size, 255 for pixels
 * that count and 0 for others. In another region than the bundle's the threshold does not hold: there is a score, and the
 * decision is KDX_UNDECIDED. roi NULL takes the bundle's. map is 0 where no pixel counts, and may be NULL. */
KDX_API kdx_status kdx_infer_roi(kdx_detector *detector, const kdx_image *image, const kdx_image *roi,
                                 kdx_verdict *verdict, const kdx_map *map) KDX_NOEXCEPT;

/* Judges several images. verdicts are count structures of one size. maps may be NULL; else there are count of them, of
 * which data may be NULL one by one. On an error, also of a single image, every decision is KDX_UNDECIDED.
 * A count above 1,048,576 is refused. Verdicts are then reset as long as they have the size of the first, and maps are not:
 * such a number is rather a mistake, a negative one for example, than the size of an array. */
KDX_API kdx_status kdx_infer_batch(kdx_detector *detector, size_t count, const kdx_image *images,
                                   kdx_verdict *verdicts, const kdx_map *maps) KDX_NOEXCEPT;

/* Finds the regions of a map that kdx_infer filled, that with the highest peak first: connected parts, diagonally too,
 * whose values exceed threshold (the description's pixel_threshold is calibrated) and that are no smaller than min_area
 * pixels of the camera. pixel_size_um is the side of what such a pixel shows of the part, in micrometres; 0: not known.
 * Writes up to room regions, and to *count how many there are; on an error 0. A map with values that are not finite, or
 * below any that the method can give, is refused: its image has no verdict, which is not the same as no region. What else
 * is wrong with an answer is known to the verdict alone: where its reason is NOT_FINITE, BELOW_RANGE or SCORE_MISMATCH,
 * the regions say nothing of the part. */
KDX_API kdx_status kdx_regions(const kdx_detector *detector, const kdx_map *map, double threshold, double min_area,
                               double pixel_size_um, size_t room, kdx_region *regions, size_t *count) KDX_NOEXCEPT;

/* The check at the start of a shift, in about a second: every hash again, the golden images against the reference, and
 * the latency at a percentile (in percent, for example 95) of so many calls against a budget in milliseconds; 0 holds it
 * to none. KDX_OK says that the test was made: report->passed says how it ended. On an error it has not passed. */
KDX_API kdx_status kdx_selftest(kdx_detector *detector, double budget_ms, double percentile, int32_t calls,
                                kdx_selftest_report *report) KDX_NOEXCEPT;

/* Frees a detector. NULL is allowed. */
KDX_API void kdx_close(kdx_detector *detector) KDX_NOEXCEPT;

/* What went wrong in this thread's last call that did not return KDX_OK. Never NULL; valid until its next call. */
KDX_API const char *kdx_last_error(void) KDX_NOEXCEPT;

/* KDX_ABI_VERSION of the library, and its version in words. */
KDX_API uint32_t kdx_abi_version(void) KDX_NOEXCEPT;
KDX_API const char *kdx_version(void) KDX_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif
