//! Shows one image. The first line of the input is the name of its file, which tells its kind.
#![no_main]

use dedump::image::framing::Image;
use dedump::inspect::paint::Paint;
use dedump::inspect::show::{Style, show};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (name, bytes) = end.map_or((input, &[][..]), |end| (&input[..end], &input[end + 1..]));
    let name = String::from_utf8_lossy(name);
    let Ok(image) = Image::from_bytes(&name, bytes.to_vec()) else {
        return;
    };
    for style in [Style::Readable(Paint::PLAIN), Style::Json, Style::Pretty] {
        let _ = show(&image, style, &mut std::io::sink());
    }
});
