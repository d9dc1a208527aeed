// Chinese has no spaces, so Sphinx's index holds a whole run of it as one word, and its
// search finds parts of a word only from three characters on. Before the first search,
// add every part of such a run to the index. Jupyter Book puts this file in each page.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // not the search page
  const query = Search.query;
  Search.query = (words) => {
    Search.query = query;
    addParts(Search._index.terms);
    addParts(Search._index.titleterms);
    query(words);
  };

  function addParts(index) {
    for (const [word, pages] of Object.entries(index))
      for (const [run] of word.matchAll(/\p{Script=Han}+/gu))
        for (let start = 0; start < run.length; start++)
          for (let end = start + 1; end <= run.length; end++) {
            const known = index[run.slice(start, end)] ?? [];
            index[run.slice(start, end)] = [...new Set([known, pages].flat())];
          }
  }
});
