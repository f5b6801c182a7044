//! Seeds of the fuzz target `decode`: payloads that its decoders take, each behind the byte that chooses the decoder.
//!
//! `FLOODPLAIN_WRITE_SEEDS=1 cargo test --release -p floodplain-decode --test it seeds` writes them anew.

use std::{fs, path::PathBuf};

/// Name, number of the decoder in the target's list, payload.
const SEEDS: [(&str, u8, &[u8]); 18] = [
    ("auto-json", 0, br#"{"rpm":1450,"ok":true,"name":"a","deep":{"x":[1,2.5,null]}}"#),
    ("auto-number", 0, b"-12.5e3"),
    ("auto-line", 0, b"cpu,host=h load=0.5,n=3i,s=\"x\",b=true 1700000000000000000"),
    ("json-rows", 1, br#"{"k":"a","a":{"b":1700000000},"r":{"s":[{"x":1},{"x":2,"l":[1,2]}]}}"#),
    ("json-types", 1, br#"{"a":9007199254740993,"b":"\u00e4\ud83d\ude00","c":1e400,"d":-0.0}"#),
    ("number-integer", 2, b"42"),
    ("number-text", 2, b" 1.5 "),
    // {"r": [{"a": 1.5, "l": [1, -2]}]}
    ("cbor-rows", 3, b"\xa1\x61r\x81\xa2\x61a\xf9\x3e\x00\x61l\x82\x01\x21"),
    // {"a": 2^63, "b": h'00ff', "c": 1(1363896240), "d": null}, of no given length.
    ("cbor-tags", 0x83, b"\xbf\x61a\x1b\x80\0\0\0\0\0\0\0\x61b\x42\0\xff\x61c\xc1\x1a\x51\x4b\x67\xb0\x61d\xf6\xff"),
    ("lines", 4, b"m,t=1 a=1i,b=2.5 1\nm,t=2 a=-3i 2\n# comment\n\nn\\ x,t\\,u=v\\=w s=\"q\\\"r\" 3"),
    ("lines-wrong", 4, b"m a=1\nm,\nm a=\nm a=1i 99999999999999999999"),
    ("lines-precision", 5, b"m,t=d,u=x a=1 1700000000\nm,t=d a=2 1700000000000"),
    ("layout", 6, b"\0\0\0\0\0\0\0\x01\x02hi\xff\x0f\xa0\x01one\0\0\x02ab\x3f\x80\0\0"),
    ("layout-empty-group", 6, b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\x3f\x80\0\0"),
    ("layout-short", 6, b"\0\0\0\x01\x02h"),
    ("layout-checksum", 7, b"\0\0\x01\0\0\x02\x03"),
    ("layout-checksum-wrong", 7, b"\0\0\x01\0\0\x02\x04"),
    ("after-another", 6 | 1 << 3, b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\x3f\x80\0\0"),
];

#[test]
fn seeds_are_those_of_the_list() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/decode");
    for (name, who, payload) in SEEDS {
        let (path, input) = (folder.join(name), [&[who], payload].concat());
        if std::env::var_os("FLOODPLAIN_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &input).unwrap();
        }
        let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(seed, input, "{name}");
    }
}
