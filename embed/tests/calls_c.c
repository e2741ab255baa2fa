/* kdx_calls_c: the header compiles as C99, and a C program gets a verdict. */
#include <kdx/kdx.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_bundle.h"

int main(void) {
    kdx_detector *detector = NULL;
    kdx_options options;
    kdx_description takes;
    kdx_verdict verdicts[2];
    kdx_image images[2];
    KDX_INIT(options);
    options.threads = 1;
    options.precision = "fp32";
    if (kdx_open(test_bundle(), &options, &detector) != KDX_OK) return fprintf(stderr, "%s\n", kdx_last_error()), 1;
    KDX_INIT(takes);
    if (kdx_describe(detector, &takes) != KDX_OK || strcmp(takes.precision, "fp32") != 0) return 1;
    size_t size = (size_t)takes.height * takes.width * takes.channels;
    uint8_t *pixels = malloc(size);
    if (!pixels) return 1;
    for (size_t i = 0; i < size; ++i) pixels[i] = (uint8_t)(i * 31 % 200);
    for (int i = 0; i < 2; ++i) {
        KDX_INIT(verdicts[i]);
        images[i] = (kdx_image){pixels, takes.height, takes.width, takes.format, 0};
    }
    kdx_status status = kdx_infer_batch(detector, 2, images, verdicts, NULL);
    printf("%g %g\n", verdicts[0].score, verdicts[1].score);
    kdx_close(detector);
    free(pixels);
    return status == KDX_OK && verdicts[0].score == verdicts[1].score && verdicts[0].score > 0 ? 0 : 1;
}
