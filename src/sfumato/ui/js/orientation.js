// A picture's orientation by the server's rule: EXIF Orientation as a 16-bit number, in a PNG ahead of the pixels, and nowhere else.

import {canvasOf} from "./dom.js";

const UPRIGHT = 1;
const ORIENTATION = 0x0112;
const SHORT = 3;
// Two pixels side by side with orientation 6: decoded one above the other if the browser applies EXIF to this format.
const PROBES = {
  "image/webp": "UklGRk4AAABXRUJQVlA4WAoAAAAIAAAAAQAAAAAAVlA4TA4AAAAvAQAAAAcQEf0PRET/A0VYSUYaAAAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA=",
  "image/png": "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAGmVYSWZNTQAqAAAACAABARIAAwAAAAEABgAAAAAAANZnS2kAAAAPSURBVHicY2BgYGBgYAAAAAcAAVchYhkAAAAASUVORK5CYII=",
};
const known = new Map();

/** The picture as the server reads it: {bitmap, orientation}. Browsers apply EXIF orientation to JPEG, most to PNG, few to WebP. */
export async function upright(blob) {
  const orientation = read(new DataView(await blob.arrayBuffer()));
  const bitmap = await createImageBitmap(blob, {imageOrientation: "from-image"});
  const left = orientation === UPRIGHT || (await turns(blob.type)) ? UPRIGHT : orientation;
  return {bitmap: await turned(bitmap, left), orientation};
}

/** A bitmap with this orientation applied. */
export async function turned(bitmap, orientation) {
  if (orientation === UPRIGHT) return bitmap;
  const {width, height} = bitmap;
  const canvas = orientation < 5 ? canvasOf(width, height) : canvasOf(height, width);
  const pen = canvas.getContext("2d");
  const matrices = {2: [-1, 0, 0, 1, width, 0], 3: [-1, 0, 0, -1, width, height], 4: [1, 0, 0, -1, 0, height], 5: [0, 1, 1, 0, 0, 0]};
  Object.assign(matrices, {6: [0, 1, -1, 0, height, 0], 7: [0, -1, -1, 0, height, width], 8: [0, -1, 1, 0, 0, width]});
  pen.setTransform(...matrices[orientation]);
  pen.drawImage(bitmap, 0, 0);
  return createImageBitmap(canvas);
}

/** Whether this browser applies EXIF orientation to a format. */
async function turns(type) {
  if (!(type in PROBES)) return true;
  if (!known.has(type)) {
    const bytes = Uint8Array.from(atob(PROBES[type]), (letter) => letter.charCodeAt(0));
    const probe = await createImageBitmap(new Blob([bytes], {type}), {imageOrientation: "from-image"});
    known.set(type, probe.height === 2);
  }
  return known.get(type);
}

function read(view) {
  try {
    return fromTiff(exif(view)) ?? UPRIGHT;
  } catch (error) {
    if (error instanceof RangeError) return UPRIGHT; // cut short
    throw error;
  }
}

function exif(view) {
  const start = view.getUint32(0);
  if (start === 0x89504e47) return pngExif(view);
  if (start >>> 16 === 0xffd8) return jpegExif(view);
  return start === 0x52494646 && text(view, 8) === "WEBP" ? webpExif(view) : null;
}

function pngExif(view) {
  for (let at = 8; at + 8 <= view.byteLength; at += 12 + view.getUint32(at)) {
    const name = text(view, at + 4);
    if (name === "IDAT") return null;
    if (name === "eXIf") return part(view, at + 8, view.getUint32(at));
  }
  return null;
}

function jpegExif(view) {
  for (let at = 2; view.getUint8(at) === 0xff && view.getUint8(at + 1) !== 0xda; at += 2 + view.getUint16(at + 2)) {
    if (view.getUint8(at + 1) === 0xe1 && text(view, at + 4) === "Exif") return part(view, at + 10, view.getUint16(at + 2) - 8);
  }
  return null;
}

function webpExif(view) {
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const length = view.getUint32(at + 4, true);
    if (text(view, at) === "EXIF") {
      const prefixed = text(view, at + 8) === "Exif" ? 6 : 0; // as in a JPEG, which some programs copy
      return part(view, at + 8 + prefixed, length - prefixed);
    }
    at += 8 + length + (length % 2);
  }
  return null;
}

function fromTiff(tiff) {
  if (!tiff) return null;
  const small = {0x49492a00: true, 0x4d4d002a: false}[tiff.getUint32(0)]; // byte order
  if (small === undefined) return null;
  const start = tiff.getUint32(4, small);
  for (let entry = start + 2; entry < start + 2 + 12 * tiff.getUint16(start, small); entry += 12) {
    if (tiff.getUint16(entry, small) !== ORIENTATION) continue;
    const isNumber = tiff.getUint16(entry + 2, small) === SHORT && tiff.getUint32(entry + 4, small) === 1;
    const value = tiff.getUint16(entry + 8, small);
    return isNumber && value >= 1 && value <= 8 ? value : null;
  }
  return null;
}

function text(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
}

function part(view, at, length) {
  return new DataView(view.buffer, at, length);
}
