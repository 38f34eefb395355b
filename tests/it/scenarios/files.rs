//! Open files.

refused! {
    io_uring, says [":3: ", "io_uring"];
}
