/* minimal_c tile.kdx frame.raw: judges one frame, which has the detector's size and pixel format. */
#include <kdx/kdx.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    kdx_detector *detector = NULL;
    kdx_description takes;
    kdx_verdict verdict;
    if (argc != 3) return 2;
    if (kdx_open(argv[1], NULL, &detector) != KDX_OK) return fprintf(stderr, "%s\n", kdx_last_error()), 2;
    KDX_INIT(takes);
    KDX_INIT(verdict);
    kdx_describe(detector, &takes);
    size_t size = (size_t)takes.height * takes.width * takes.channels;
    uint8_t *frame = malloc(size);
    FILE *file = fopen(argv[2], "rb");
    if (!frame || !file || fread(frame, 1, size, file) != size || fgetc(file) != EOF)
        return fprintf(stderr, "the file does not have the size of a frame\n"), 2;
    const kdx_image image = {frame, takes.height, takes.width, takes.format, 0};
    if (kdx_infer(detector, &image, &verdict, NULL) != KDX_OK) return fprintf(stderr, "%s\n", kdx_last_error()), 2;
    printf("%s %.6g\n", verdict.decision == KDX_GOOD ? "good" : "not good", verdict.score);
    fclose(file), free(frame), kdx_close(detector);
    return verdict.decision == KDX_GOOD ? 0 : 1;
}
