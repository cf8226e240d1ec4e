//! The text in a VMDK that says which files it is made of.

use crate::header::Refused;

const NO_PARENT: &str = "ffffffff";

/// Whether the text, and whatever follows it in the sectors that QEMU reads, names no other file.
pub fn check(sectors: &[u8]) -> Result<(), Refused> {
    // QEMU looks for this word wherever it may be, in a comment as well.
    if contains(sectors, b"parentFileNameHint") {
        return Err(Refused::NotAlone("it holds the differences to another file"));
    }
    let text = sectors.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| Refused::Broken("its descriptor is no text"))?;
    let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let value_of = |line: &str, wanted: &str| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"').to_owned())
    };
    let values = |key: &'static str| lines().filter_map(move |line| value_of(line, key));
    if values("parentCID").any(|cid| !cid.eq_ignore_ascii_case(NO_PARENT)) {
        return Err(Refused::NotAlone("it holds the differences to another file"));
    }
    let kinds: Vec<_> = values("createType").collect();
    match kinds.as_slice() {
        [kind] if matches!(kind.as_str(), "monolithicSparse" | "streamOptimized") => {}
        [] => return Err(Refused::Broken("its descriptor does not say what it is")),
        _ => return Err(Refused::NotAlone("it is neither monolithicSparse nor streamOptimized")),
    }
    let mut extents = lines().filter(|line| is_extent(line));
    match (extents.next(), extents.next()) {
        (Some(extent), None) => check_extent(extent),
        (None, _) => Err(Refused::Broken("its descriptor names no extent")),
        (Some(_), Some(_)) => Err(Refused::NotAlone("its descriptor names several files")),
    }
}

fn is_extent(line: &str) -> bool {
    let access = line.split_whitespace().next().unwrap_or_default();
    ["RW", "RDONLY", "NOACCESS"].iter().any(|known| access.eq_ignore_ascii_case(known))
}

/// `RW SECTORS SPARSE "NAME"`: the file itself, under the name that it once had. No program opens it by that name, and
/// none needs to find its way to another folder there.
fn check_extent(line: &str) -> Result<(), Refused> {
    let mut words = line.split_whitespace();
    let (kind, name) = (words.nth(2), words.next().unwrap_or_default());
    if kind != Some("SPARSE") {
        return Err(Refused::NotAlone("its data are in another file"));
    }
    let rest = line.split_once(name).map_or("", |(_, rest)| rest);
    if name.is_empty() || name.contains(['/', '\\']) || rest.contains(['/', '\\']) || name.contains("..") {
        return Err(Refused::NotAlone("its descriptor names a file in another folder"));
    }
    Ok(())
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Disk DescriptorFile\nversion=1\nCID=595e5126\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n\
        # Extent description\nRW 204800 SPARSE \"a disk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\n";

    fn changed(from: &str, to: &str) -> Result<(), Refused> {
        assert!(GOOD.contains(from), "{from}");
        check(GOOD.replace(from, to).as_bytes())
    }

    #[test]
    fn the_texts_of_single_files_are_accepted() {
        check(GOOD.as_bytes()).unwrap();
        check(&[GOOD.as_bytes(), &[0; 100], b"\xff\xfe rest of tables"].concat()).unwrap();
        changed("monolithicSparse", "streamOptimized").unwrap();
        changed("RW 204800", "RDONLY 204800").unwrap();
        changed("parentCID=ffffffff", "parentCID=FFFFFFFF").unwrap();
        changed("\n", "\r\n").unwrap();
    }

    #[test]
    fn texts_that_name_other_files_are_refused() {
        let not_alone =
            |result: Result<(), Refused>| assert!(matches!(result, Err(Refused::NotAlone(_))), "{result:?}");
        not_alone(changed("parentCID=ffffffff", "parentCID=12345678"));
        not_alone(changed("parentCID=ffffffff", "parentCID=ffffffff\nparentCID=0"));
        not_alone(changed("#DDB", "#DDB\nparentFileNameHint=\"/etc/passwd\""));
        not_alone(changed("#DDB", "#DDB parentfilenamehint=\"/etc/passwd\""));
        not_alone(check(&[GOOD.as_bytes(), b"\0\0parentFileNameHint=\"/etc/passwd\""].concat()));
        not_alone(changed("#DDB", "RW 8 FLAT \"/etc/passwd\" 0"));
        not_alone(changed("#DDB", "rdonly 8 sparse \"b.vmdk\""));
        not_alone(changed("SPARSE \"a disk.vmdk\"", "FLAT \"a-flat.vmdk\" 0"));
        not_alone(changed("SPARSE \"a disk.vmdk\"", "VMFS \"a-flat.vmdk\""));
        not_alone(changed("SPARSE \"a disk.vmdk\"", "SPARSE \"/etc/passwd\""));
        not_alone(changed("SPARSE \"a disk.vmdk\"", "SPARSE \"a ../b\""));
        not_alone(changed("SPARSE \"a disk.vmdk\"", "SPARSE"));
        not_alone(changed("monolithicSparse", "monolithicFlat"));
        not_alone(changed("monolithicSparse", "twoGbMaxExtentSparse"));
        not_alone(changed("#DDB", "createType=\"vmfs\""));
    }

    #[test]
    fn what_is_no_such_text_is_refused() {
        let broken = |result: Result<(), Refused>| assert!(matches!(result, Err(Refused::Broken(_))), "{result:?}");
        broken(check(b""));
        broken(check(&[0; 512]));
        broken(check(b"\xff\xff"));
        broken(changed("createType", "type"));
        broken(changed("RW 204800", "# RW 204800"));
    }
}
