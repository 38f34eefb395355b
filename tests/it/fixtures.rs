//! The image folders kept in the repository.

use std::path::Path;

use dedump::image::catalogue::Kind;
use dedump::image::framing::Image;
use dedump::image::proto::Manifest;

use crate::oracle::decode;

#[test]
fn the_manifest_knows_every_image() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("images-fixtures/one-task");
    decode(&folder);
    let image = Image::open(&folder.join(Kind::Manifest.file_name(0))).unwrap();
    let manifest: Manifest = image.decode(0).unwrap();
    let entries = std::fs::read_dir(&folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let others = names
        .filter(|name| Kind::of_file_name(name).is_some_and(|(kind, _)| kind != Kind::Manifest));
    for name in others {
        let content = std::fs::read(folder.join(&name)).unwrap();
        let file = manifest
            .files
            .iter()
            .find(|file| file.name == name)
            .expect(&name);
        assert_eq!(file.size_bytes, content.len() as u64, "{name}");
        assert_eq!(file.crc32, crc32fast::hash(&content), "{name}");
    }
}
