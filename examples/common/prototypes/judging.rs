//! What a prototype network says about images that it never saw.

use xdiff::metrics::Predictions;
use xdiff::proto::PrototypeNetwork;
use xdiff::vision::Network;
use xdiff::vision::train::Predictions as Answers;

use crate::AnyError;
use crate::classify::judging::scored;
use crate::classify::source::ClassData;
use crate::classify::training::loader;

/// Answers of a network to the test images, in their order.
///
/// # Errors
/// When an image cannot be read.
pub fn answers(
    network: &PrototypeNetwork<Network>,
    data: &ClassData,
    batch: usize,
) -> Result<Predictions, AnyError> {
    let mut answered = Answers::new(data.classes.len());
    for batch in loader(data.test.clone(), batch, None)?.epoch(0) {
        let batch = batch?;
        let labels = batch.classes.ok_or("the images have no classes")?.to_vec1::<u32>()?;
        let logits = network.forward(&batch.images, &mut ())?.logits.ok_or("the network has no head")?;
        answered.push(&logits.detach(), &labels, &batch.ids)?;
    }
    scored(&answered, data)
}
