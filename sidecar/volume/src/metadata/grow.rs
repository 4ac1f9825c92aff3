//! A replica whose volumes have become larger: another area, with everything that the old one knew, and what was gained marked as different
//! from everybody's. Pure: whoever writes it puts it at another place, and changes over in one write.

use super::activity::ActivityLog;
use super::bitmap::Bitmap;
use super::geometry::{Geometry, Unfit};
use super::page::PAGE;
use super::store::Store;
use bytes::Bytes;

/// Sizes that a replica can not be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ungrown {
    #[error(
        "volume {number} has {known} bytes and would have {asked}: a volume is never made smaller, for what stands behind the new end would \
         be lost on one node after the other; make a smaller replica with `leasehold volume create`, and copy into it"
    )]
    Smaller { number: usize, known: u64, asked: u64 },
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// The pages of an area, with their byte offsets: all of them. `volumes`: the new sizes, as many as there are volumes.
///
/// A bitmap keeps what is marked, and what is hot counts as marked. What was gained is marked against each peer: whoever has it too has
/// other bytes there, as far as anybody knows.
///
/// # Errors
/// [`Ungrown`].
pub fn grown(old: &Store, volumes: Vec<u64>) -> Result<(Geometry, Vec<(u64, Bytes)>), Ungrown> {
    let before = old.geometry();
    for (number, (known, asked)) in before.volumes().iter().zip(&volumes).enumerate() {
        if asked < known {
            return Err(Ungrown::Smaller { number, known: *known, asked: *asked });
        }
    }
    let geometry = Geometry::new(volumes, before.chunk_shift(), before.slots())?;
    // What lies at the new place from earlier times could be read as a page of this area: none of it stays.
    let pages = geometry.area() / PAGE as u64;
    let mut area: Vec<Bytes> =
        vec![Bytes::from_static(&[0; PAGE]); usize::try_from(pages).expect("an area fits into memory")];
    let mut put = |page: u64, bytes: Bytes| area[usize::try_from(page).expect("as many as there are")] = bytes;
    ActivityLog::blank_ring().for_each(|(page, bytes)| put(page, bytes));
    let mut superblock = old.superblock().clone();
    superblock.geometry = geometry.clone();
    for slot in old.slots() {
        let Some(peer) = &superblock.peers[slot] else { continue };
        let mut map = Bitmap::full(peer.tag, &geometry);
        for extent in 0..before.extents() {
            let to = before.extent_in(extent, &geometry).expect("what was there is there");
            // The last chunk of a volume may have ended early: now it has bytes that nobody has compared.
            let whole = geometry.within(to, before.volumes());
            map.clear(to, whole & !old.marked(slot, extent));
        }
        for page in 0..geometry.bitmap_pages() {
            put(geometry.bitmap_page(slot, page), map.save(page));
        }
    }
    [0, 1].into_iter().for_each(|copy| put(copy, superblock.encode(1)));
    let at = |(page, bytes): (usize, Bytes)| (page as u64 * PAGE as u64, bytes);
    Ok((geometry, area.into_iter().enumerate().map(at).collect()))
}
