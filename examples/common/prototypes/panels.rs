//! Pictures of prototypes: where they come from, and what looks like them.

use std::collections::HashMap;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use xdiff::data::{Dataset, Subset, infos};
use xdiff::nn::Rng;
use xdiff::proto::squared_distances;
use xdiff::proto::window::Window;
use xdiff::viz::{
    BoxMark, Grid, GridOptions, Likeness, LikenessOptions, PictureBox, Plane, draw_boxes, enlarge,
    likeness_panel,
};

use super::training::{Trained, WINDOW};
use crate::AnyError;
use crate::classify::report::picture;
use crate::classify::source::ClassData;
use crate::classify::training::loader;

/// How often small images are enlarged for a gallery.
const ENLARGED: u32 = 2;
const BOX: Rgb<u8> = Rgb([255, 210, 0]);

fn part(window: Window) -> PictureBox {
    let [x, y, width, height] = [window.left, window.top, window.width(), window.height()].map(|v| v as u32);
    PictureBox { x, y, width, height }
}

/// The training images that prototypes were taken from, by name.
#[derive(Debug)]
pub struct Sources<'a> {
    data: &'a ClassData,
    at: HashMap<String, usize>,
}

impl<'a> Sources<'a> {
    /// Looks the names up.
    ///
    /// # Errors
    /// When the data cannot be asked.
    pub fn new(data: &'a ClassData) -> Result<Self, AnyError> {
        let at = infos(&*data.train)?.into_iter().enumerate().map(|(i, info)| (info.id, i)).collect();
        Ok(Self { data, at })
    }

    fn picture(&self, name: &str) -> Result<RgbImage, AnyError> {
        let i = self.at.get(name).ok_or_else(|| format!("`{name}` is no training image"))?;
        picture(&self.data.train.get(*i, &mut Rng::new(0))?)
    }

    /// Every prototype in its source image, one row a class.
    ///
    /// # Errors
    /// When a source is not among the training images.
    pub fn gallery(&self, trained: &Trained) -> Result<RgbImage, AnyError> {
        let sources = &trained.projected.projection.sources;
        let class_of = trained.network.class_of().ok_or("the prototypes belong to no class")?;
        let columns = sources.len() / self.data.classes.len().max(1);
        let mut grid = Grid::new(GridOptions {
            columns,
            panel_size: 128,
            row_labels: self.data.classes.clone(),
            ..Default::default()
        });
        let weights = trained.head()?;
        for (j, source) in sources.iter().enumerate() {
            let mut large = enlarge(&self.picture(&source.image)?, ENLARGED)?;
            let PictureBox { x, y, width, height } = part(source.window);
            let mark = BoxMark { x, y, width, height, color: BOX, label: None };
            draw_boxes(&mut large, &[mark.enlarged(ENLARGED)], 2)?;
            grid.push(large, format!("{j}: weight {:.2}", weights[class_of[j]][j]));
        }
        Ok(grid.render()?)
    }

    /// The prototypes that speak loudest for the class that a test image is taken for: what they look
    /// like, and where in the image.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn explain(
        &self,
        trained: &Trained,
        (image, title): (usize, String),
        lines: usize,
    ) -> Result<RgbImage, AnyError> {
        let one: Arc<dyn Dataset> = Arc::new(Subset::new(self.data.test.clone(), vec![image])?);
        let batch = loader(one, 1, None)?.epoch(0).next().ok_or("there is no such image")??;
        let (_, _, height, width) = batch.images.dims4()?;
        let query = picture(&self.data.test.get(image, &mut Rng::new(0))?)?;
        let network = &trained.network;
        let embedded = network.embed(&batch.images, &mut ())?.detach();
        let reading = network.read(&embedded)?;
        let logits = reading.logits.ok_or("the network has no head")?;
        let class = logits.argmax(1)?.to_vec1::<u32>()?[0] as usize;
        let weights = &trained.head()?[class];
        let similarity = reading.similarity.to_vec2::<f32>()?.remove(0);
        let position = reading.nearest.position.to_vec2::<u32>()?.remove(0);
        let distances = squared_distances(&embedded, network.prototypes().vectors())?;
        let maps = network.similarity().of_distance(&distances)?.detach().get(0)?;
        let (_, h, w) = maps.dims3()?;
        let points = |j: usize| similarity[j] * weights[j];
        let mut order: Vec<usize> = (0..similarity.len()).collect();
        order.sort_by(|a, b| points(*b).total_cmp(&points(*a)));
        let mut found = Vec::new();
        for j in order.into_iter().take(lines) {
            let map = maps.get(j)?;
            let at = (position[j] as usize / w, position[j] as usize % w);
            let source = &trained.projected.projection.sources[j];
            found.push(Likeness {
                query: query.clone(),
                query_box: part(WINDOW.window(at, &map, (height, width))?),
                map: Plane::new(h, w, map.flatten_all()?.to_vec1()?)?,
                caption: format!(
                    "prototype {j}: similarity {:.2} × weight {:.2} = {:.2} for {}",
                    similarity[j],
                    weights[j],
                    points(j),
                    self.data.classes[class]
                ),
                source: self.picture(&source.image)?,
                source_box: part(source.window),
                source_caption: format!("{} ({})", source.image, self.data.classes[source.class as usize]),
            });
        }
        let options = LikenessOptions { title: Some(title), panel_size: 192, ..Default::default() };
        Ok(likeness_panel(&found, &options)?)
    }
}

impl Trained {
    /// The last layer's weights, a row a class.
    ///
    /// # Errors
    /// When there is no last layer.
    pub fn head(&self) -> Result<Vec<Vec<f32>>, AnyError> {
        let weight = self.params.get("last_layer.weight").ok_or("the network has no last layer")?;
        Ok(weight.as_detached_tensor().to_vec2()?)
    }
}
