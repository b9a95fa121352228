// For lunr.js: each Chinese character is a word of its own, and a page that is found has all that were asked for.
(function () {
  var chinese = /[\u3400-\u9fff]/g, trim = lunr.trimmer, cut = lunr.tokenizer, search = lunr.Index.prototype.search;
  lunr.trimmer = function (token) { return /[\u3400-\u9fff]/.test(token.toString()) ? token : trim(token); };
  lunr.Pipeline.registerFunction(lunr.trimmer, "trimmerOfChinese");
  lunr.tokenizer = function (text, metadata) {
    return cut(typeof text === "string" ? text.replace(chinese, " $& ") : text, metadata);
  };
  lunr.tokenizer.separator = cut.separator;
  lunr.Index.prototype.search = function (query) { return search.call(this, query.replace(chinese, " +$& ").trim()); };
})();
