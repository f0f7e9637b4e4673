//! What spaCy's English tokenizer knows by heart: contractions and where they part, abbreviations and emoticons that
//! stay whole. A table from a piece's hash to the lengths of its parts.

use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

pub(super) static CONTRACTIONS: LazyLock<Contractions> = LazyLock::new(Contractions::english);

/// Bytes of the longest entry.
pub(super) const LONGEST: usize = 27;

/// Open addressing by the hash itself, which is uniform.
pub(super) struct Contractions {
    slots: Vec<(u64, u32, u32)>,
    lengths: Vec<u8>,
}

const SLOTS: usize = 1 << 12;

/// Subjects and what may follow them: with an apostrophe, and without one where it is dropped ("youre").
const SUBJECTS: &[(&str, &str)] = &[
    ("i", "m ma ll llve d dve ve"),
    ("you", "ll llve d dve ve re"),
    ("he", "ll llve d dve s"),
    ("she", "ll llve d dve s"),
    ("it", "ll llve d dve s"),
    ("we", "ll llve d dve ve re"),
    ("they", "ll llve d dve ve re"),
    ("who", "s ll llve re ve d dve"),
    ("what", "s ll llve re ve d dve"),
    ("when", "s ll llve re ve d dve"),
    ("where", "s ll llve re ve d dve"),
    ("why", "s ll llve re ve d dve"),
    ("how", "s ll llve re ve d dve"),
    ("there", "s ll llve re ve d dve"),
    ("that", "s ll llve d dve"),
    ("this", "s ll llve d dve"),
    ("these", "ll llve re ve d dve"),
    ("those", "ll llve re ve d dve"),
];

/// Verbs that take n't and n't've.
const NEGATED_PERFECT: &str = "ca could do does did had may might must need ought sha should wo would";
/// Verbs that take n't alone.
const NEGATED: &str = "ai are is was were have has dare";
/// Verbs that take 've.
const PERFECT: &str = "could might must should would";

/// Words that a rule above would cut and that are words of their own.
const EXCLUDED: &str = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore";

/// Cut at the marks: "can|not".
const CUT: &str = "y'|all y|all how|'d|'y How|'d|'y not|'ve not|ve Not|'ve Not|ve can|not Can|not gon|na Gon|na got|ta \
    Got|ta let|'s Let|'s c'm|on C'm|on °|c|. °|f|. °|k|. °|C|. °|F|. °|K|.";

/// Whole, although a rule would cut something off.
const WHOLE: &str = "doin doin' Doin Doin' goin goin' Goin Goin' nothin nothin' Nothin Nothin' nuthin nuthin' Nuthin \
    Nuthin' ol ol' Ol Ol' somethin somethin' Somethin Somethin' em 'em ll 'll nuff 'nuff 'S 's ‘S ‘s and/or w/o 're \
    'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am Ma'am o'clock O'clock lovin lovin' Lovin Lovin' havin \
    havin' Havin Havin' Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. \
    Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. \
    Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. 'd a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. \
    E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. \
    Sen. St. vs. v.s. — ' \\\") <space> '' C++ a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. \
    x. y. z. ä. ö. ü. \\t \\n";

const EMOTICONS: &str = ":) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) \
    (; (-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O \
    :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ \
    ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ \
    <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>";

impl Contractions {
    fn english() -> Self {
        let mut table = Self { slots: vec![(0, 0, 0); SLOTS], lengths: Vec::new() };
        for (subject, tails) in SUBJECTS {
            for subject in both_cases(subject) {
                for tail in tails.split(' ') {
                    // "ma" is 'm and a, "dve" is 'd and 've.
                    let parts: &[&str] = match tail {
                        "ma" => &["'m", "a"],
                        "llve" => &["'ll", "'ve"],
                        "dve" => &["'d", "'ve"],
                        "m" => &["'m"],
                        "ll" => &["'ll"],
                        "d" => &["'d"],
                        "ve" => &["'ve"],
                        "re" => &["'re"],
                        _ => &["'s"],
                    };
                    table.insert_both(&subject, parts);
                }
            }
        }
        for (verbs, tails) in [(NEGATED_PERFECT, &["n't", "'ve"][..]), (NEGATED, &["n't"])] {
            for verb in verbs.split(' ').flat_map(both_cases) {
                table.insert_both(&verb, &["n't"]);
                table.insert_both(&verb, tails);
            }
        }
        for verb in PERFECT.split(' ').flat_map(both_cases) {
            table.insert_both(&verb, &["'ve"]);
        }
        for hour in 1..=12 {
            for half in ["a.m.", "am", "p.m.", "pm"] {
                table.insert(&[&hour.to_string(), half]);
            }
        }
        for parts in CUT.split_whitespace() {
            table.insert(&parts.split('|').collect::<Vec<_>>());
        }
        for whole in WHOLE.split_whitespace().chain(EMOTICONS.split_whitespace()) {
            table.insert(&[whole]);
        }
        table
    }

    /// A contraction with its apostrophes and without them.
    fn insert_both(&mut self, head: &str, tails: &[&str]) {
        let bare: Vec<_> = tails.iter().map(|tail| tail.replace('\'', "")).collect();
        self.insert(&[&[head], tails].concat());
        self.insert(&std::iter::once(head).chain(bare.iter().map(String::as_str)).collect::<Vec<_>>());
    }

    fn insert(&mut self, parts: &[&str]) {
        let whole = parts.concat();
        if EXCLUDED.split(' ').any(|word| word == whole) {
            return;
        }
        debug_assert!(whole.len() <= LONGEST, "{whole}");
        let hash = xxh3_64(whole.as_bytes());
        let mut at = hash as usize % SLOTS;
        while self.slots[at].2 > 0 && self.slots[at].0 != hash {
            at = (at + 1) % SLOTS;
        }
        self.slots[at] = (hash, self.lengths.len() as u32, parts.len() as u32);
        self.lengths.extend(parts.iter().map(|part| part.len() as u8));
    }

    /// The lengths in bytes of the parts of a piece with this hash and length, if it is known.
    pub(super) fn parts(&self, hash: u64, length: usize) -> Option<&[u8]> {
        if length > LONGEST {
            return None;
        }
        let mut at = hash as usize % SLOTS;
        loop {
            let (found, start, count) = self.slots[at];
            if count == 0 {
                return None;
            }
            if found == hash {
                return Some(&self.lengths[start as usize..(start + count) as usize]);
            }
            at = (at + 1) % SLOTS;
        }
    }
}

/// "you" and "You".
fn both_cases(word: &str) -> [String; 2] {
    let (first, rest) = word.split_at(1);
    [word.to_owned(), first.to_uppercase() + rest]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_its_entries() {
        let parts = |piece: &str| CONTRACTIONS.parts(xxh3_64(piece.as_bytes()), piece.len());
        assert_eq!(parts("can't"), Some(&[2, 3][..]));
        assert_eq!(parts("Couldntve"), Some(&[5, 2, 2][..]));
        assert_eq!(parts("I'ma"), Some(&[1, 2, 1][..]));
        assert_eq!(parts("Whyd"), Some(&[3, 1][..]));
        assert_eq!(parts("12p.m."), Some(&[2, 4][..]));
        assert_eq!(parts("its"), None);
        assert_eq!(parts("well"), None);
        assert_eq!(parts(";-)"), Some(&[3][..]));
        let used = CONTRACTIONS.slots.iter().filter(|slot| slot.2 > 0).count();
        assert!(used < SLOTS / 4, "{used} of {SLOTS} slots");
    }
}
