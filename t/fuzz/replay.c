/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over files instead of random input: each regression stays a test. */

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int files; /* inputs run so far = number of the last TAP line */

/* Gives the target a heap copy of just its size, so that ASan sees a read past the end. */
static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    long size = -1;
    uint8_t *data = NULL;

    if (f && fseek(f, 0, SEEK_END) == 0) {
        size = ftell(f);
        rewind(f);
    }
    if (size >= 0) {
        data = malloc(size > 0 ? (size_t)size : 1);
    }
    if (!data || fread(data, 1, (size_t)size, f) != (size_t)size) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    fclose(f);
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    printf("ok %d - %s\n", ++files, path);
    return fflush(stdout);
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void run_path(const char *path)
{
    struct stat st;
    struct dirent **list;
    int i, n;

    if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
        run_file(path);
        return;
    }
    n = scandir(path, &list, visible, alphasort);
    if (n < 0) {
        fprintf(stderr, "cannot list %s\n", path);
        exit(1);
    }
    for (i = 0; i < n; i++) {
        char *child;

        if (asprintf(&child, "%s/%s", path, list[i]->d_name) < 0) {
            exit(1);
        }
        run_path(child);
        free(child);
        free(list[i]);
    }
    free(list);
}

/* Without arguments the corpus is found from the program's name: build/replay/cookie replays
 * t/fuzz/corpus/cookie, relative to the working directory. An empty corpus is a failure. */
int main(int argc, char **argv)
{
    int i;

    for (i = 1; i < argc; i++) {
        run_path(argv[i]);
    }
    if (argc == 1) {
        const char *name = strrchr(argv[0], '/');
        char *dir;

        if (asprintf(&dir, "t/fuzz/corpus/%s", name ? name + 1 : argv[0]) < 0) {
            return 1;
        }
        run_path(dir);
        free(dir);
    }
    printf("1..%d\n", files);
    if (files == 0) {
        fputs("no input found\n", stderr);
    }
    return files == 0;
}
