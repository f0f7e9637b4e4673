//! Folders and files: both ways, in parts, damaged.

use crate::setup::{Machine, On, golden_folder, gpt, llama, options};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use triax_model::{Options, Session, Stage, TensorSource, declare, hf, llama2c};
use triax_spec::model::Mask;
use triax_tensor::DType;
use triax_tensor::reference::Reference;

/// Tensors of a file as (shape, bytes) by name.
fn tensors(file: &Path) -> HashMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, t)| (name.into(), (t.shape().to_vec(), t.data().to_vec()))).collect()
}

#[test]
fn a_folder_comes_back_bit_by_bit_through_a_device() {
    for name in ["gpt2", "llama"] {
        let imported = hf::import(&golden_folder(name)).unwrap();
        let options = Options { training: false, ..options(&imported.model, 1, 1) };
        let machine = Machine::loaded(On::Reference, &imported.model, &options, &imported);
        let folder = tempfile::tempdir().unwrap();
        let source = machine.network.tensors(&*machine.device);
        hf::export(&imported.model, &source, folder.path(), DType::F32).unwrap();
        let again = hf::import(folder.path()).unwrap();
        assert_eq!(again.model, imported.model);
        let file = |folder: &Path| tensors(&folder.join("model.safetensors"));
        assert_eq!(file(folder.path()), file(&golden_folder(name)));
    }
}

#[test]
fn our_own_models_survive_export_in_every_type() {
    for (dtype, bits) in [(DType::F32, 24), (DType::F16, 11), (DType::Bf16, 8)] {
        for tied in [false, true] {
            for mut model in [gpt(Mask::Causal), llama(Mask::Causal)] {
                model.tied = tied;
                model.dropout.embedding = 0.0;
                model.dropout.hidden = 0.0;
                model.heads = if model.kv_heads == 2 { 4 } else { 3 };
                model.init.scale_outputs = model.bias;
                let machine = Machine::new(&model, &options(&model, 1, 1));
                let source = machine.network.tensors(&*machine.device);
                let folder = tempfile::tempdir().unwrap();
                hf::export(&model, &source, folder.path(), dtype).unwrap();
                let imported = hf::import(folder.path()).unwrap();
                assert_eq!(imported.model, model);
                for declared in declare(&model, &Stage::whole(&model)) {
                    let (a, b) =
                        (source.tensor(&declared.name).unwrap(), imported.tensor(&declared.name).unwrap());
                    assert_eq!(a.len(), b.len());
                    // Half a unit in the last place; below f16's normal range its step is 2⁻²⁴.
                    let near = |a: f32, b: f32| (a - b).abs() <= a.abs() * 2f32.powi(-bits) + 2f32.powi(-25);
                    assert!(a.iter().zip(&b).all(|(&a, &b)| near(a, b)), "{} as {dtype}", declared.name);
                }
            }
        }
    }
}

#[test]
fn a_model_that_no_architecture_computes_is_not_exported() {
    let machine = Machine::new(&gpt(Mask::Prefix), &options(&gpt(Mask::Prefix), 1, 1));
    let folder = tempfile::tempdir().unwrap();
    let source = machine.network.tensors(&*machine.device);
    let message = |model| hf::export(&model, &source, folder.path(), DType::F32).unwrap_err().to_string();
    assert_eq!(
        message(gpt(Mask::Prefix)),
        "this model cannot be written as a Hugging Face GPT-2 folder: its mask is not causal"
    );
    let mut model = llama(Mask::Causal);
    model.bias = true;
    assert_eq!(
        message(model),
        "this model cannot be written as a Hugging Face Llama folder: its linear layers have biases"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

/// A copy of a golden folder with other tensors.
fn copy(name: &str, change: impl FnOnce(&mut HashMap<String, (Vec<usize>, Vec<u8>)>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden_folder(name).join("config.json"), folder.path().join("config.json")).unwrap();
    let mut all = tensors(&golden_folder(name).join("model.safetensors"));
    change(&mut all);
    write(&folder.path().join("model.safetensors"), all.iter());
    folder
}

fn write<'a>(path: &Path, all: impl Iterator<Item = (&'a String, &'a (Vec<usize>, Vec<u8>))>) {
    let views: Vec<(&String, TensorView<'_>)> = all
        .map(|(name, (shape, data))| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()))
        .collect();
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn refusal(folder: &Path) -> String {
    hf::import(folder).err().expect("refused").to_string()
}

#[test]
fn tensors_that_do_not_fit_the_config_are_refused_by_name() {
    let missing = copy("gpt2", |all| drop(all.remove("transformer.h.1.ln_2.bias")));
    assert!(refusal(missing.path()).contains("has no tensor `transformer.h.1.ln_2.bias`"));
    let unknown = copy("llama", |all| {
        drop(all.insert("model.layers.0.self_attn.q_proj.bias".into(), (vec![1], vec![0; 4])));
    });
    let message = refusal(unknown.path());
    assert!(
        message.contains("`model.layers.0.self_attn.q_proj.bias` has no place in this Llama model"),
        "{message}"
    );
    let shape = copy("llama", |all| drop(all.insert("model.norm.weight".into(), (vec![2], vec![0; 8]))));
    assert!(refusal(shape.path()).contains("`model.norm.weight` is [2], the config says [48]"));
    let untied = copy("gpt2", |all| {
        let mut head = all["transformer.wte.weight"].clone();
        head.1[0] ^= 1;
        drop(all.insert("lm_head.weight".into(), head));
    });
    assert!(refusal(untied.path()).contains("`lm_head.weight` differs from the embedding"));
}

#[test]
fn names_without_the_prefix_and_constants_are_understood() {
    let bare = copy("gpt2", |all| {
        *all = all.drain().map(|(n, t)| (n.strip_prefix("transformer.").unwrap().to_owned(), t)).collect();
        all.insert("h.0.attn.bias".into(), (vec![1, 1, 2, 2], vec![0; 16]));
    });
    let (bare, full) = (hf::import(bare.path()).unwrap(), hf::import(&golden_folder("gpt2")).unwrap());
    let name = "layer.2.attention.qkv.weight";
    assert_eq!(bare.tensor(name).unwrap(), full.tensor(name).unwrap());
}

#[test]
fn damaged_files_are_refused_by_name() {
    let golden = fs::read(golden_folder("gpt2").join("model.safetensors")).unwrap();
    let damaged = |bytes: &[u8]| {
        let folder = copy("gpt2", |_| ());
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains("model.safetensors"), "{message}");
        message
    };
    assert!(damaged(&golden[..golden.len() - 4]).contains("truncated or damaged"));
    assert!(damaged(&golden[..5]).contains("too short"));
    assert!(damaged(&[&[0xff; 8], &golden[8..]].concat()).contains("not safetensors"));
    let mut header = golden;
    header[8] = b'[';
    assert!(damaged(&header).contains("not the JSON that was expected"));
    let empty = copy("gpt2", |_| ());
    fs::remove_file(empty.path().join("model.safetensors")).unwrap();
    assert!(refusal(empty.path()).contains("has neither model.safetensors nor"));
}

#[test]
fn shards_are_read_by_their_index() {
    let folder = copy("llama", |_| ());
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    fs::remove_file(path("model.safetensors")).unwrap();
    let all = tensors(&golden_folder("llama").join("model.safetensors"));
    let shard =
        |name: &str| format!("model-0000{}-of-00002.safetensors", 1 + usize::from(name.contains("layers.1")));
    for number in ["model.layers.0", "model.layers.1"].map(shard) {
        write(&path(&number), all.iter().filter(|(name, _)| shard(name) == number));
    }
    let mut map: HashMap<&str, String> = all.keys().map(|name| (name.as_str(), shard(name))).collect();
    let index = |map: &HashMap<&str, String>| {
        let text = serde_json::json!({ "metadata": {"total_size": 1}, "weight_map": map }).to_string();
        fs::write(path("model.safetensors.index.json"), text).unwrap();
    };
    index(&map);
    let (shards, whole) = (hf::import(folder.path()).unwrap(), hf::import(&golden_folder("llama")).unwrap());
    for declared in declare(&whole.model, &Stage::whole(&whole.model)) {
        assert_eq!(shards.tensor(&declared.name).unwrap(), whole.tensor(&declared.name).unwrap());
    }

    map.insert("lm_head.weight", shard("layers.1"));
    index(&map);
    assert!(refusal(folder.path()).contains("`lm_head.weight` is not in shard"));
    map.insert("lm_head.weight", "../elsewhere.safetensors".into());
    index(&map);
    assert!(refusal(folder.path()).contains("is not a file of this folder"));
}

#[test]
fn a_real_model_in_the_llama2c_format_tells_its_story() {
    let Some(data) = std::env::var_os("TRIAX_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: TRIAX_TEST_DATA is not set");
        return;
    };
    let file = data.join("models/stories260K.bin");
    let stories = llama2c::read(&file).unwrap();
    let mut session =
        Session::new(&stories.model, DType::F32, 64, Box::new(Reference::new()), &stories).unwrap();
    let pieces = pieces(&data.join("models/tok512.bin"));
    let (mut token, mut text) = (1u32, Vec::new());
    for _ in 0..50 {
        let logits = session.feed(&[token]);
        token = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        text.extend_from_slice(&pieces[token as usize]);
    }
    let text = String::from_utf8(text).unwrap();
    // What llama2.c itself prints at temperature 0.
    let known =
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
    assert!(text.trim_start().starts_with(known), "{text}");

    let bytes = fs::read(&file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.bin");
    fs::write(&cut, &bytes[..bytes.len() - 4]).unwrap();
    let message = llama2c::read(&cut).err().unwrap().to_string();
    assert!(message.contains("cut.bin: has 1"), "{message}");
}

/// The pieces of llama2.c's tokenizer file: the longest length, then score, length and bytes of each.
fn pieces(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let (mut pieces, mut rest) = (Vec::new(), &bytes[4..]);
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        pieces.push(rest[8..8 + length].to_vec());
        rest = &rest[8 + length..];
    }
    pieces
}
