/* Open files. */
#include "scenario.h"

#include <linux/io_uring.h>
#include <sys/syscall.h>

SCENARIO(io_uring) {
    struct io_uring_params parameters = {0};
    TRY(syscall(SYS_io_uring_setup, 4, &parameters));
    be_dumped();
}
