//! TEMP
fn main() {
    println!("cargo::rerun-if-changed=proto");
    let set =
        protox::compile(["proto/all.proto", "proto/manifest.proto"], ["proto"]).expect("proto");
    prost_build::Config::new().compile_fds(set).expect("prost");
}
