// Pictures from files: chosen, dropped on the page, or pasted.

import {$} from "./dom.js";

export const TYPES = ["image/png", "image/jpeg", "image/webp", "image/avif", "image/gif"];

/** Let a file be chosen with this input, and use it. */
export function pick(input, use) {
  input.value = "";
  input.onchange = () => input.files[0] && use(input.files[0]);
  input.click();
}

/** open: gets a file that was dropped or pasted, and its name. */
export function listenToFiles(open) {
  let depth = 0; // dragenter and dragleave also come from the elements inside
  const dragging = (work) => (event) => event.dataTransfer.types.includes("Files") && (event.preventDefault(), work(event)); // text may be dropped into the prompt
  const onDrag = (name, work) => document.addEventListener(name, dragging(work));
  onDrag("dragenter", () => (depth++, ($("drop").hidden = false)));
  onDrag("dragleave", () => --depth || ($("drop").hidden = true));
  onDrag("dragover", () => {});
  onDrag("drop", (event) => {
    depth = 0;
    $("drop").hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) open(file, file.name);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) open(file, "pasted.png");
  });
}
