//! Tells cargo that the page is part of the binary: without this a file added to it would not be. Turns the `.proto`
//! files of gRPC into Rust.

#[cfg(feature = "grpc")]
mod grpc {
    //! Generated at each build and not checked in: the `.proto` files are then the only place that says what the
    //! messages are, for the server, for its reflection and for the client of the tests. protox reads them in Rust, so
    //! nobody needs `protoc`.

    use std::error::Error;
    use std::path::PathBuf;

    const PROTOS: &str = "src/grpc";

    #[allow(
        clippy::disallowed_methods,
        reason = "no setting of the service: cargo tells a build script where to write"
    )]
    pub fn generate() -> Result<(), Box<dyn Error>> {
        println!("cargo:rerun-if-changed={PROTOS}");
        let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
        let mut compiler = protox::Compiler::new([PROTOS])?;
        compiler.include_imports(true).include_source_info(true).open_file("orders_service.proto")?;
        let read = compiler.file_descriptor_set();
        // What the server's reflection tells.
        std::fs::write(out.join("orders.bin"), compiler.encode_file_descriptor_set())?;
        tonic_prost_build::configure().build_client(false).build_transport(false).compile_fds(read.clone())?;
        // The client of the tests.
        let client = out.join("client");
        std::fs::create_dir_all(&client)?;
        tonic_prost_build::configure().build_server(false).out_dir(client).compile_fds(read)?;
        Ok(())
    }
}

fn main() {
    println!("cargo:rerun-if-changed=web");
    println!("cargo:rerun-if-changed=migrations");
    #[cfg(feature = "grpc")]
    if let Err(error) = grpc::generate() {
        panic!("src/grpc: {error}");
    }
}
