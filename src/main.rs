//! order-service. What it does is in the library: [`order_service::cli`].

use std::process::ExitCode;

/// Reads are served from many threads and orders freed on others than they were made on: mimalloc is good at both.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    order_service::cli::main()
}
