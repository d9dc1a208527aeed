// What scrolls sideways can be reached by the keyboard, whose arrows then scroll it.
document.addEventListener("DOMContentLoaded", () => {
  const boxes = document.querySelectorAll(
    ".pst-scrollable-table-container, .results, .text_html, div.math, .highlight pre",
  );
  const look = () => {
    for (const box of boxes)
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
  };
  look();
  addEventListener("load", look); // formulas are set by then
  addEventListener("resize", look);
});
