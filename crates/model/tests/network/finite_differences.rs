//! Gradients of whole networks against differences of their losses.

use crate::setup::{Machine, Samples, options, styles};
use triax_model::Rank;
use triax_tensor::DeviceExt;
use triax_tensor::philox::Stream;

/// Central differences along a random direction of ±1 for each parameter, extrapolated from two widths:
/// `D(ε) = (L(w + εd) - L(w - εd)) / 2ε`, `D = (4 D(ε) - D(2ε)) / 3`.
///
/// The tolerance is what D itself is uncertain by: `|D(2ε) - D(ε)|` bounds the truncation, and the loss,
/// stored through some ten f32 roundings on its way, is uncertain by about `10 · 2⁻²⁴`, divided by ε.
#[test]
fn gradients_are_the_slopes_of_the_loss_with_dropout_on() {
    const WIDTH: f32 = 1.0 / 512.0;
    let noise = 10.0 * 2f64.powi(-24) / f64::from(WIDTH);
    for model in styles() {
        let samples = Samples::random(&model, 2);
        let mut machine = Machine::new(&model, &options(&model, 2, 1));
        machine.step(&samples);
        let gradients = machine.gradients();
        for (index, (name, gradient)) in gradients.iter().enumerate() {
            let stream = Stream::named(1, name);
            let sign = |i: usize| if stream.word(i as u64) & 1 == 0 { 1.0f32 } else { -1.0 };
            let weight = machine.network.parameters()[index].weight;
            let original: Vec<f32> = machine.device.download_vec(weight);
            let mut loss_at = |step: f32| {
                let moved: Vec<f32> = original.iter().enumerate().map(|(i, w)| w + step * sign(i)).collect();
                machine.device.upload_slice(weight, &moved);
                machine.network.pack_weights(&mut *machine.device);
                loss(&mut machine, &samples)
            };
            let mut slope = |width: f32| (loss_at(width) - loss_at(-width)) / (2.0 * f64::from(width));
            let (narrow, wide) = (slope(WIDTH), slope(2.0 * WIDTH));
            machine.device.upload_slice(weight, &original);
            machine.network.pack_weights(&mut *machine.device);

            let expected = (4.0 * narrow - wide) / 3.0;
            let found: f64 = gradient.iter().enumerate().map(|(i, g)| f64::from(g * sign(i))).sum();
            let tolerance = (wide - narrow).abs() + noise;
            assert!(
                (found - expected).abs() <= tolerance,
                "{name}: gradient {found}, slope {expected} ± {tolerance}\n{model:?}"
            );
        }
        assert!(gradients.iter().all(|(_, g)| g.iter().any(|&g| g.abs() > 1e-4)), "some gradient is zero");
    }
}

/// Mean loss of a training pass (with dropout).
fn loss(machine: &mut Machine, samples: &Samples) -> f64 {
    let batch = samples.range(&machine.network, 0, samples.prefix.len());
    machine.network.begin_step(&mut *machine.device);
    machine.network.upload(&mut *machine.device, 0, &batch);
    machine.network.forward(&mut Rank::alone(&mut *machine.device), 0, 0, 1.0, &mut ()).unwrap();
    machine.network.losses(&*machine.device).iter().sum::<f64>() / samples.counted() as f64
}
