/* The C interface of kdx. It opens a bundle and returns verdicts.
 *
 * The library reads a bundle that `kdx export` and `kdx calibrate` wrote, checks the hash of every
 * file, and returns the same score, map and verdict as Python does with the same backend.
 *
 * Rules of the interface
 *   - Every function returns a kdx_status; 0 is KDX_OK. After an error, kdx_last_error() returns
 *     the message of the calling thread's last failed call. The library throws nothing, prints
 *     nothing and sets no signal handler.
 *   - Memory belongs to the caller: images, verdicts and maps are read or written during a call and
 *     not kept. Only kdx_open and kdx_open_signed allocate a handle, and only kdx_close frees it.
 *   - A structure begins with its size. Set the size with KDX_INIT, so that a later version of the
 *     library knows which fields its caller has. Reserved and unknown fields are zero.
 *   - After an error, nothing in the caller's memory lets a part pass. Before a call reads its
 *     other arguments, and again when it fails, every verdict becomes KDX_UNDECIDED with a score,
 *     threshold and margin of NaN, and with no relative score and p-value if its struct_size is
 *     valid. After an error every map holds NaN, a description is empty, a self-test has not
 *     passed, and there are 0 regions. Some things cannot be written: an output whose pointer is
 *     null, a map when the detector is null or the map's row_stride is too small, and what follows
 *     the first verdict of a batch whose count is too large.
 *   - kdx_infer, kdx_infer_roi, kdx_infer_batch, kdx_decode, kdx_describe, kdx_regions and
 *     kdx_selftest may be called on one detector from several threads at once; each call uses its own inference request
 *     of the runtime. Do not call kdx_close while another call on the same detector runs.
 *   - The library keeps no state outside the handle, except the text of kdx_last_error, of which
 *     every thread has its own.
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

/* This number increases when the library stops supporting callers that were compiled with an older
 * header. */
#define KDX_ABI_VERSION 1

/* Sets a structure of this interface to zero and then sets its size: kdx_options options;
 * KDX_INIT(options); */
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
    KDX_ERROR_ARGUMENT = 1, /* a null pointer, an invalid size or an invalid option */
    KDX_ERROR_IMAGE = 2,    /* an image whose size, layout or format the detector does not accept */
    KDX_ERROR_BUNDLE = 3,   /* the bundle is incomplete, altered, too new, or names files outside its folder */
    KDX_ERROR_BACKEND = 4,  /* the runtime is missing or failed (the next call may succeed), or it does not decide
                               on this machine as it did at export */
    KDX_ERROR_MEMORY = 5,   /* out of memory */
    KDX_ERROR_INTERNAL = 6  /* a bug in kdx */
};

/* The decision on an image. Only KDX_GOOD lets a part pass. Memory of zeros is KDX_UNDECIDED. */
typedef int32_t kdx_decision;
enum { KDX_UNDECIDED = 0, KDX_GOOD = 1, KDX_DEFECTIVE = 2, KDX_REVIEW = 3 };

/* Faults of a frame that shows no part. Such a frame is never good, whatever its score.
 * KDX_FRAME_DARK and all that follow compare a channel with the limits that calibration learned
 * from good images. Later versions of the library may add faults. */
enum {
    KDX_FRAME_BLACK = 1,        /* nearly every sample has the sensor's black level */
    KDX_FRAME_WHITE = 2,        /* nearly every sample has the sensor's white level */
    KDX_FRAME_UNIFORM = 4,      /* all samples have the same value */
    KDX_FRAME_SATURATED = 8,    /* a large part of the frame is overexposed */
    KDX_FRAME_DARK = 16,        /* much darker than good images */
    KDX_FRAME_BRIGHT = 32,      /* much brighter than good images */
    KDX_FRAME_FLAT = 64,        /* much less contrast than good images */
    KDX_FRAME_NOISE = 128,      /* noise without structure, as with a covered lens */
    KDX_FRAME_SMOOTH = 256,     /* gradients without details, as with a covered lens that lets in light at one side */
    KDX_FRAME_PARTLY_BLACK = 512 /* a larger share is black than in good images, as after an incomplete transfer */
};

/* Why a decision is KDX_UNDECIDED. If several reasons hold, a verdict gives one: first NOT_FINITE,
 * BELOW_RANGE and SCORE_MISMATCH in this order, then the others in the order of their numbers. The
 * reason is KDX_REASON_NONE if the decision is another one or if the call failed.
 *   NOT_FINITE      the map or the score contains NaN or infinity
 *   BELOW_RANGE     the map or the score is below the lowest value that the method can compute
 *   SCORE_MISMATCH  the score is not the maximum of the map, although the method defines it as that
 * These three mean that the runtime, its driver or the graph computed a wrong answer; the score is
 * then NaN. */
enum {
    KDX_REASON_NONE = 0,
    KDX_REASON_NOT_FINITE = 1,
    KDX_REASON_BELOW_RANGE = 2,
    KDX_REASON_NO_THRESHOLD = 3, /* the bundle is not calibrated, or its region of interest or level map
                                    changed after calibration */
    KDX_REASON_OTHER_REGION = 4, /* the threshold was calibrated in another region of interest */
    KDX_REASON_FRAME = 5,        /* the frame shows no part: see frame_faults */
    KDX_REASON_SCORE_MISMATCH = 6
};

typedef int32_t kdx_pixel_format;
enum { KDX_RGB8 = 1, KDX_BGR8 = 2, KDX_MONO8 = 3 };

/* Whether the bundle has a region of interest, which excludes pixels of the camera (`kdx roi`). If
 * it changed after calibration, every decision is KDX_UNDECIDED. */
enum { KDX_ROI_NONE = 0, KDX_ROI_SET = 1, KDX_ROI_CHANGED = 2 };

typedef struct kdx_options {
    uint32_t struct_size;
    int32_t threads;       /* threads of one inference, up to 1024; 0: the runtime chooses (one per physical core), as
                              it must on a GPU */
    const char *backend;   /* "openvino" or "tensorrt"; NULL: the first that was compiled in */
    const char *precision; /* "fp32", "fp16", "bf16" or "int8"; NULL: the fastest that the bundle holds, that this
                              machine computes, and that is calibrated if FP32 is calibrated */
    const char *cache_dir; /* folder for compiled models, with which the next start takes half a second; NULL: they
                              are not kept, and engines of TensorRT need none. Beyond 1 GiB, those that were used
                              least recently are removed; kdx_description.said names a folder that cannot be written */
    int32_t device;        /* index of the GPU, from 0; 0 for a backend without GPUs. kdx_open refuses threads,
                              cache_dir and device for a backend on which they would have no effect. */
    /* Batch sizes that will be passed to kdx_infer_batch, batch_size_count of them; NULL and 0:
     * none. kdx_open compiles the models that these sizes need, compares the golden images in such
     * batches too, and keeps the models in memory. Any other size is compiled by the first call
     * that uses it, and that call takes longer. Calls with other sizes, including single images, do
     * not wait for it. kdx_open always compiles the model for single images. For a bundle for large
     * frames, 1 means one frame with all its tiles. */
    const int32_t *batch_sizes;
    size_t batch_size_count;
} kdx_options;

typedef struct kdx_description {
    uint32_t struct_size;
    int32_t height, width, channels; /* size of the images that kdx_infer accepts */
    kdx_pixel_format format;         /* pixel format that needs no copy */
    int32_t map_height, map_width;
    int32_t max_batch; /* images per inference; longer batches are split; 1 if frames are cut into tiles */
    double threshold;        /* NaN if the bundle is not calibrated for this precision and backend, or its region of
                                interest or level map changed after calibration */
    double review_threshold; /* scores above it, up to the threshold, need a review; NaN: there is no review band */
    double pixel_threshold; /* map value that hardly any good image reaches at any pixel; NaN: not known */
    double field_of_view;   /* fraction of height and width, centred, of the image or of its window (crop_left, ...),
                               that the map covers */
    char backend[24];
    char precision[8];
    int32_t roi; /* KDX_ROI_... */
    char said[256]; /* why every verdict is undecided although the bundle was calibrated, what is not known about its
                       threshold, or why compiled models cannot be kept in cache_dir; empty: nothing. Write it to the
                       line's log at the start. */
    char threshold_by_hand[256]; /* why a person set the threshold (`kdx calibrate --threshold`), in UTF-8; a text
                                    that is too long ends with "..." as one character, U+2026; empty: it was chosen
                                    from scores, or there is none */
    int32_t crop_left, crop_top, crop_width, crop_height; /* the window of the frame that the networks see, in pixels;
                                                             all of it if the bundle has none */
} kdx_description;

typedef struct kdx_image {
    const uint8_t *data;
    int32_t height, width;
    kdx_pixel_format format; /* RGB8 and BGR8 are both accepted by every detector of colour images */
    int64_t row_stride;      /* bytes from one row to the next; 0: rows without padding */
} kdx_image;

/* Memory for an anomaly map: map_height rows of map_width float values. */
typedef struct kdx_map {
    float *data;
    int64_t row_stride; /* bytes from one row to the next; 0: rows without padding */
} kdx_map;

typedef struct kdx_verdict {
    uint32_t struct_size;
    kdx_decision decision;
    uint32_t frame_faults; /* KDX_FRAME_... */
    float score;
    double threshold; /* NaN if the bundle is not calibrated */
    double margin;    /* score / threshold - 1; negative for good parts; NaN without a threshold above 0 */
    uint32_t reason;  /* KDX_REASON_...: why the decision is KDX_UNDECIDED */
    uint32_t reserved;
    double relative_score; /* score / threshold; NaN without a threshold above 0 */
    /* The conformal p-value of the score, (1 + k) / (1 + n): k of the n good images of the
     * calibration score at least as high. Small values are unusual for good parts. NaN without a
     * valid calibration, with one of an older kdx that kept no scores, and without a score. */
    double p_value;
    int64_t held_out_images; /* the number n of good images that p_value stands on; 0: none */
} kdx_verdict;

/* A connected region of a map above the pixel threshold, in pixels of the camera. */
typedef struct kdx_region {
    double area;
    double area_mm2; /* NaN if the size of a pixel is not known */
    double top, left, height, width;
    double peak; /* largest value of the map in the region, and its position */
    double peak_row, peak_column;
} kdx_region;

typedef struct kdx_selftest_report {
    uint32_t struct_size;
    int32_t passed; /* 1: the line may run; 0: it must not */
    int32_t images; /* number of golden images that were compared */
    int32_t flips;  /* verdicts that differ from the reference; -1 without a threshold */
    double score_difference, score_allowed; /* largest relative difference and its limit; see `kdx verify` */
    double map_difference, map_allowed;
    double latency_ms; /* from image to verdict and map, at the requested percentile */
    double median_ms;
    int32_t calls;
    char said[256]; /* what failed, and how to fix it; empty if the test passed. kdx_last_error has all of it. */
} kdx_selftest_report;

/* Opens a bundle. The function checks the schema, the paths and the hash of every file, compiles
 * the graph, and runs the golden images in batches of one and of the requested sizes. It returns
 * KDX_ERROR_BACKEND if they differ from the reference by more than `kdx verify` allows. The bytes
 * that were hashed are the bytes that run, for every batch size, even if the bundle's files are
 * replaced later. options may be NULL. *detector is NULL unless the function returns KDX_OK. */
KDX_API kdx_status kdx_open(const char *bundle, const kdx_options *options, kdx_detector **detector) KDX_NOEXCEPT;

/* Opens a bundle as kdx_open does, on condition that one of the given keys signed it (`kdx sign`).
 * It returns KDX_ERROR_BUNDLE if the bundle is not signed, was signed by another key, or was
 * altered after it was signed. public_keys are count strings (several while one key replaces
 * another); each is the path of a PEM file or the content of one. Engines are opened only if the
 * signature covers them, and cache_dir is used only if no other user can write to it. The function
 * returns KDX_ERROR_ARGUMENT if no key is given, if a key cannot be read, or if the library was
 * built without OpenSSL: the request is never ignored. A field of kdx_options would be ignored by
 * an older library; that is why this is a separate function. */
KDX_API kdx_status kdx_open_signed(const char *bundle, const kdx_options *options, const char *const *public_keys,
                                   size_t count, kdx_detector **detector) KDX_NOEXCEPT;

/* Describes the images that a detector accepts and the answers that it returns. */
KDX_API kdx_status kdx_describe(const kdx_detector *detector, kdx_description *description) KDX_NOEXCEPT;

/* Judges one image. map may be NULL. */
KDX_API kdx_status kdx_infer(kdx_detector *detector, const kdx_image *image, kdx_verdict *verdict,
                             const kdx_map *map) KDX_NOEXCEPT;

/* Judges one image in a region of interest for this call only. roi is a KDX_MONO8 image of the
 * camera's size: 255 for pixels that count and 0 for others. The threshold is valid only in the
 * bundle's own region; in any other, the verdict has a score and the decision KDX_UNDECIDED. If roi
 * is NULL, the bundle's region is used. The map is 0 at pixels that do not count. map may be
 * NULL. */
KDX_API kdx_status kdx_infer_roi(kdx_detector *detector, const kdx_image *image, const kdx_image *roi,
                                 kdx_verdict *verdict, const kdx_map *map) KDX_NOEXCEPT;

/* Judges several images. verdicts is an array of count structures of one size. maps may be NULL, or
 * is an array of count maps, each of which may have NULL as its data. After an error, even with a
 * single image, every decision is KDX_UNDECIDED. A count above 1,048,576 is an error: it is more
 * likely a mistake, such as a negative number, than the length of an array. In that case the first
 * verdict is reset, the others are neither read nor written, and maps are not written. */
KDX_API kdx_status kdx_infer_batch(kdx_detector *detector, size_t count, const kdx_image *images,
                                   kdx_verdict *verdicts, const kdx_map *maps) KDX_NOEXCEPT;

/* Finds the regions of a map that kdx_infer filled, the region with the highest peak first. A
 * region is a connected group of pixels, also diagonally, whose values exceed threshold (the
 * description's pixel_threshold is calibrated) and whose area is at least min_area pixels of the
 * camera. pixel_size_um is the side of such a pixel on the part, in micrometres; 0: not known. The
 * function writes up to room regions, and the number of all regions to *count; after an error
 * *count is 0. A map with values that are not finite, or that are below the lowest value that the
 * method can compute, is an error: its image has no verdict, which is different from no regions.
 * The map does not show every fault of an answer. If the verdict's reason is NOT_FINITE,
 * BELOW_RANGE or SCORE_MISMATCH, the regions have no meaning. */
KDX_API kdx_status kdx_regions(const kdx_detector *detector, const kdx_map *map, double threshold, double min_area,
                               double pixel_size_um, size_t room, kdx_region *regions, size_t *count) KDX_NOEXCEPT;

/* The check at the start of a shift, which takes about a second. It checks every hash again, and
 * that bundle.json is the one that was opened, with its signature if one was required. It compares
 * the golden images with the reference, and the latency of `calls` calls at a percentile (for
 * example 95) with a budget in milliseconds; a budget of 0 sets no limit. A bundle without a
 * threshold fails, because its verdicts are undecided. KDX_OK means that the test ran;
 * report->passed is its result. After an error, passed is 0. The first check that fails is the
 * last: numbers that were not measured are NaN, and flips is -1. */
KDX_API kdx_status kdx_selftest(kdx_detector *detector, double budget_ms, double percentile, int32_t calls,
                                kdx_selftest_report *report) KDX_NOEXCEPT;

/* A frame as a camera delivers it. */
typedef struct kdx_buffer {
    uint32_t struct_size;
    int32_t height, width;
    const char *pixel_format; /* the name that GenICam gives to the layout, such as "BayerRG12p"; see
                                 docs/deployment/pixel-formats.md */
    const void *data;
    size_t size;        /* bytes of the image, without what some cameras append (chunk data) */
    int64_t row_stride; /* bytes from one row to the next; 0: rows without padding */
} kdx_buffer;

/* Decodes a camera's buffer into an image that kdx_infer accepts, to the same bytes as
 * kdx.decode_frame in Python: packed values are unpacked, mosaics interpolated, and more than 8 bits
 * scaled, those of grey by the bundle's 16-bit range. pixels has room for at least height * width *
 * channels bytes (see kdx_describe). *image describes them and is valid as long as they are. After
 * an error, *image is zero, and so are the pixels if there is room for them: a black frame, which is
 * never good. */
KDX_API kdx_status kdx_decode(const kdx_detector *detector, const kdx_buffer *buffer, uint8_t *pixels, size_t room,
                              kdx_image *image) KDX_NOEXCEPT;

/* Frees a detector. NULL is allowed. */
KDX_API void kdx_close(kdx_detector *detector) KDX_NOEXCEPT;

/* Returns the message of this thread's last failed call, or of a self-test that did not pass. Never
 * NULL; valid until its next call. */
KDX_API const char *kdx_last_error(void) KDX_NOEXCEPT;

/* Return the KDX_ABI_VERSION of the library, and its version as text. */
KDX_API uint32_t kdx_abi_version(void) KDX_NOEXCEPT;
KDX_API const char *kdx_version(void) KDX_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif
