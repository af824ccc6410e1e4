//! Tells cargo that the page and the migrations are part of the binary: without this a file added to them would not be.

fn main() {
    println!("cargo:rerun-if-changed=web");
    println!("cargo:rerun-if-changed=migrations");
}
