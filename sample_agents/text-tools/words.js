"use strict";
// Words as the Unicode rules of a language split them (UAX 29, by Intl.Segmenter), and slugs.

const WORDS_PER_MINUTE = 238; // silent reading of English prose; Brysbaert 2019, doi:10.1016/j.jml.2019.104047

// Letters that do not come apart into an ASCII letter and a mark.
const LETTERS = {
  ß: "ss", æ: "ae", œ: "oe", ø: "o", ð: "d", þ: "th", ł: "l", đ: "d", ħ: "h", ı: "i", "&": " and ",
};

// Intl.Segmenter takes time in proportion to the square of a text's length, so it gets a piece at a time: up to 300
// characters that end between words (or inside one that is longer than that).
const PIECES = /[^]{1,300}(?<!\S(?=\S)|\r(?=\n))|[^]{1,300}/gu;

/** Counts of a text; `top` is how many of the most frequent words to list. */
function wordCount(text, language, top) {
  const byWord = new Intl.Segmenter(language, { granularity: "word" });
  const byCharacter = new Intl.Segmenter(language, { granularity: "grapheme" });
  let [words, characters] = [0, 0];
  const counts = new Map();
  for (const [piece] of text.matchAll(PIECES)) {
    for (const _ of byCharacter.segment(piece)) characters++;
    for (const { segment, isWordLike } of byWord.segment(piece)) {
      if (!isWordLike) continue;
      words++;
      const word = segment.toLocaleLowerCase(language);
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  const ranked = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  return {
    words,
    unique_words: counts.size,
    lines: text === "" ? 0 : text.split("\n").length - (text.endsWith("\n") ? 1 : 0),
    characters,
    reading_minutes: Math.round((words / WORDS_PER_MINUTE) * 10) / 10,
    top: ranked.slice(0, top).map(([word, count]) => ({ word, count })),
  };
}

/** `text` in lower-case ASCII letters and digits, its words joined by `separator`; at most `maxLength` long. */
function slugify(text, separator, maxLength) {
  const ascii = Array.from(text.normalize("NFKD").toLowerCase(), (char) => LETTERS[char] ?? char).join("");
  const words = ascii.replace(/[\u0300-\u036f'’]/g, "").match(/[a-z0-9]+/g) ?? [];
  let slug = (words[0] ?? "").slice(0, maxLength);
  for (const word of words.slice(1)) {
    if (slug.length + separator.length + word.length > maxLength) break;
    slug += separator + word;
  }
  return slug;
}

module.exports = { slugify, wordCount };
