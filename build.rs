//! Compiles every program in `bpf/` into a libbpf skeleton: `bpf/NAME.bpf.c` → `$OUT_DIR/NAME.skel.rs`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=bpf");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Debian keeps the kernel's asm/ headers under the architecture's name; clang for BPF has no default.
    let headers = format!(
        "-I/usr/include/{}-linux-gnu",
        env::var("CARGO_CFG_TARGET_ARCH")?
    );
    for entry in fs::read_dir("bpf")? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some(name) = name.strip_suffix(".bpf.c") else {
            continue;
        };
        SkeletonBuilder::new()
            .source(&path)
            .clang_args([headers.as_str(), "-Wall", "-Werror"])
            .build_and_generate(out.join(format!("{name}.skel.rs")))?;
    }
    Ok(())
}
