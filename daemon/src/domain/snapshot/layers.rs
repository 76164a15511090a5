//! How many layers the images of snapshots may have.
//!
//! Each commit puts a layer on the image that its container was made from, so a
//! workspace that is restored and changed and restored again gets one more each
//! time. The engine refuses to make the 126th, and slows down on the way. So from
//! a bound on, what all the layers of snapshots changed is put into one layer
//! over the image that they began with, and that one stays shared.

/// Layers that snapshots may put on an image before they are made one.
pub const LAYERS_MAX: u32 = 40;

/// The most layers of an image that an engine makes (moby: `maxLayerDepth`).
pub const ENGINE_LAYERS_MAX: u32 = 125;

/// From this many layers on they are made one whatever the bound is: an image
/// that a person brought may have many itself.
const NEAR_THE_END: u32 = ENGINE_LAYERS_MAX - 25;

/// The layers of an image that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayers {
    /// All of them.
    pub count: u32,
    /// The image that it was begun with; `None` when it is not to be had.
    pub base: Option<BaseImage>,
}

/// An image that snapshots put layers on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// Content id.
    pub id: String,
    /// Its layers.
    pub count: u32,
}

impl ImageLayers {
    /// The image on which the layers are to be made one; `None` when they may
    /// stay as they are, or have to.
    #[must_use]
    pub fn flatten_onto(&self, layers_max: u32) -> Option<&BaseImage> {
        let base = self.base.as_ref()?;
        let added = self.count.saturating_sub(base.count);
        let due = added > layers_max || self.count > NEAR_THE_END;
        (due && added > 1).then_some(base)
    }

    /// Whether no layer can be put on it any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count >= ENGINE_LAYERS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn onto(count: u32, base: u32) -> bool {
        let base = BaseImage {
            id: "base".to_owned(),
            count: base,
        };
        let base = Some(base);
        let layers = ImageLayers { count, base };
        layers.flatten_onto(LAYERS_MAX).is_some()
    }

    #[test]
    fn layers_are_made_one_beyond_the_bound_and_near_the_end() {
        for (count, base, due) in [
            (2, 1, false),
            (41, 1, false),
            (42, 1, true),
            (60, 20, false),
            (61, 20, true),
            (100, 90, false),
            (101, 90, true),
            // One layer is not made less.
            (101, 100, false),
        ] {
            assert_eq!(onto(count, base), due, "{count} over {base}");
        }
    }

    #[test]
    fn without_the_image_that_it_was_begun_with_nothing_can_be_done() {
        let layers = ImageLayers {
            count: ENGINE_LAYERS_MAX,
            base: None,
        };
        assert_eq!(layers.flatten_onto(LAYERS_MAX), None);
        assert!(layers.is_full());
    }
}
