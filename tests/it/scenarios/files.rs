//! Open files: paths, pipes, sockets, and everything that waits.

mod events;
mod inet;
mod link_layer;
mod locks;
mod notify;
mod outside;
mod pipes;
mod proc;
mod regular;
mod terminal;
mod unix;

refused! {
    deleted_file_above_the_limit, says ["deleted file", "--ghost-limit"];
    unlinked_with_another_name, says ["--link-remap"];
    io_uring, says [":3: ", "io_uring"];
}
