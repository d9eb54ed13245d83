/* SPDX-License-Identifier: Apache-2.0
 * The run's folder belongs to one epoch of one job, whoever asks in whatever order. */
#include "host/train/fence.h"
#include "tests/unit/unit.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/weft-fence-XXXXXX";
static char path[64];

static int enter_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/epoch", folder);
    return 0;
}

static int leave_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static fence of(const char *job) {
    fence f = {.path = path, .epoch = -1};
    snprintf(f.job, sizeof f.job, "%s", job);
    return f;
}

CASE(an_epoch_follows_the_one_before) {
    fence f = of("a1"), late = of("a1");
    assert_int_equal(fence_claim(&f, 0), WEFT_OK);
    assert_int_equal(fence_held(&f), WEFT_OK);
    assert_int_equal(fence_free(&late, 1), WEFT_OK);
    assert_int_equal(fence_claim(&late, 1), WEFT_OK);
    assert_int_equal(fence_held(&late), WEFT_OK);
    /* Who led before it holds it no more, and cannot take it back. */
    assert_int_equal(fence_held(&f), WEFT_PEER);
    assert_int_equal(fence_free(&f, 1), WEFT_PEER);
    assert_int_equal(fence_claim(&f, 1), WEFT_PEER);
    expect_message("went on without this process");
    assert_int_equal(fence_free(&late, 2), WEFT_OK);
    fence_end(&f);
    assert_int_equal(fence_held(&late), WEFT_OK);
    fence_end(&late);
    assert_int_equal(access(path, F_OK), -1);
}

CASE(another_job_takes_the_folder) {
    fence f = of("a1"), other = of("b2");
    assert_int_equal(fence_claim(&f, 0), WEFT_OK);
    assert_int_equal(fence_claim(&other, 0), WEFT_OK);
    assert_int_equal(fence_held(&f), WEFT_PEER);
    assert_int_equal(fence_claim(&f, 1), WEFT_PEER);
    assert_int_equal(fence_free(&f, 2), WEFT_PEER);
    fence_end(&other);
}

CASE(a_run_that_is_over_is_nobodys) {
    fence f = of("a1");
    assert_int_equal(fence_held(&f), WEFT_PEER);
    assert_int_equal(fence_claim(&f, 1), WEFT_PEER);
    assert_int_equal(fence_free(&f, 2), WEFT_PEER);
    assert_int_equal(access(path, F_OK), -1);
}

CASE(what_is_in_it_may_be_anything) {
    static const char *const texts[] = {
        "", "job", "job A1", "epoch 0 job a1", "job ../../etc", "\xff\xfe\x00\x01"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        fence f = of("a1");
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_int_equal(write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
        close(fd);
        assert_int_equal(fence_claim(&f, 1), WEFT_PEER);
        assert_int_equal(fence_claim(&f, 0), WEFT_OK);
        assert_int_equal(fence_held(&f), WEFT_OK);
        fence_end(&f);
    }
}

CASE(of_many_at_once_one_has_it) {
    enum { PROCESSES = 8, ROUNDS = 20 };
    fence f = of("a1");
    assert_int_equal(fence_claim(&f, 0), WEFT_OK);
    for (int round = 1; round <= ROUNDS; round++) {
        int won = 0, status;
        for (int i = 0; i < PROCESSES; i++)
            if (fork() == 0)
                _exit(fence_claim(&f, round) == WEFT_OK);
        for (int i = 0; i < PROCESSES; i++) {
            assert_true(wait(&status) > 0);
            won += WEXITSTATUS(status);
        }
        assert_int_equal(won, 1);
        f.epoch = round;
        assert_int_equal(fence_held(&f), WEFT_OK);
    }
    fence_end(&f); /* of all epochs nothing is left: the folder can be removed */
}

CASE(a_folder_that_refuses) {
    fence f = of("a1");
    f.path = "/nowhere/at/all/epoch";
    assert_int_equal(fence_claim(&f, 0), WEFT_IO);
    expect_message("/nowhere/at/all/epoch");
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(an_epoch_follows_the_one_before),
        cmocka_unit_test(another_job_takes_the_folder),
        cmocka_unit_test(a_run_that_is_over_is_nobodys),
        cmocka_unit_test(what_is_in_it_may_be_anything),
        cmocka_unit_test(of_many_at_once_one_has_it),
        cmocka_unit_test(a_folder_that_refuses),
    };
    return cmocka_run_group_tests(cases, enter_folder, leave_folder);
}
