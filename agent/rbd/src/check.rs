//! Whether a host may do in a pool what it must.

use crate::{
    cluster::IoCtx,
    content::{self, PUBLISHED},
    error::RbdError,
    image::Access,
    names,
};

/// An address that no client has (RFC 3849), to see whether the blocklist takes one.
const NOBODY: &str = "[2001:db8::]:0/1";
/// How long it stays there, in seconds.
const MOMENT: u32 = 1;
const SIZE: u64 = 4 << 20;

/// Does all of it, and leaves nothing behind; what an earlier check has left half done is removed first.
pub fn check(pool: &IoCtx) -> Result<(), RbdError> {
    let own = names::check(&nix::unistd::gethostname().unwrap_or_default().to_string_lossy());
    let clone = format!("{own}.clone");
    let clear = || {
        // Those who may not even write are to be told so of the first image that is made.
        if !pool.images()?.iter().any(|name| *name == own || *name == clone) {
            return Ok(());
        }
        content::remove(pool, &clone)?;
        if let Some(image) = crate::image::present(pool.open(&own, Access::Write))?
            && image.has_snapshot(PUBLISHED)?
        {
            image.remove_snapshot(PUBLISHED)?;
        }
        content::remove(pool, &own)
    };
    clear()?;
    pool.create(&own, SIZE)?;
    let image = pool.open(&own, Access::Write)?;
    image.write(0, b"ucloud")?;
    image.flush()?;
    image.resize(2 * SIZE)?;
    image.snapshot(PUBLISHED)?;
    drop(image);
    pool.clone_image(&own, PUBLISHED, &clone)?;
    clear()?;
    Ok(pool.cluster().blocklist(NOBODY, MOMENT)?)
}
