//! Tells cargo that the page is part of the binary: without this a file added to it would not be.

fn main() {
    println!("cargo:rerun-if-changed=web");
    println!("cargo:rerun-if-changed=migrations");
}
