/** Pictures: files that the user gives, made fit to send, and their URLs. */

import { randomId } from "./conversation.js";
import { UserError } from "./errors.js";
import { keepPicture, pictureBlob } from "./history.js";

/** Types that the server reads as they are. */
const SENT_AS_IS = new Set(["image/jpeg", "image/png", "image/webp", "image/gif"]);

/** Larger files are made smaller before they are sent. */
const LARGEST_FILE = 4 * 1024 * 1024;

/** The longest side after that, in pixels: more than the model's four tiles show. */
const LONGEST_SIDE = 2240;

const blobs = new Map();
const objectUrls = new Map();

/**
 * Returns a picture that can be sent: `{id, name, width, height, blob}`.
 * @param {File} file
 * @throws {UserError} If it is no picture that this browser can show.
 */
export async function readPicture(file) {
  const name = file.name || "Pasted picture";
  if (file.type && !file.type.startsWith("image/")) {
    throw new UserError(`“${name}” is not a picture. Choose a JPEG, PNG, WebP or GIF file.`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new UserError(
      `This browser can't open “${name}”. Save it as JPEG or PNG, and add that file.`
    );
  }
  const fits = SENT_AS_IS.has(file.type) && file.size <= LARGEST_FILE;
  const scale = fits ? 1 : Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const blob = fits ? new Blob([file], { type: file.type }) : await drawn(bitmap, width, height);
  bitmap.close();
  const picture = { id: randomId(), name, width, height, blob };
  blobs.set(picture.id, blob);
  return picture;
}

async function drawn(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  // JPEG has no transparency.
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  if (!blob) throw new UserError("The picture is too large for this browser. Make it smaller first.");
  return blob;
}

/** Keeps a picture's bytes and returns what messages say about it. */
export async function keptPicture({ id, name, width, height, blob }) {
  blobs.set(id, blob);
  await keepPicture({ id, name, blob }).catch(() => {});
  return { id, name, width, height };
}

/** Returns a picture's blob; undefined if this browser has lost it. */
export async function blobOf(id) {
  if (!blobs.has(id)) {
    const blob = await pictureBlob(id).catch(() => undefined);
    if (blob) blobs.set(id, blob);
  }
  return blobs.get(id);
}

/** Returns a URL that shows a picture in this page; null if it is lost. */
export async function objectUrl(id) {
  if (!objectUrls.has(id)) {
    const blob = await blobOf(id);
    if (!blob) return null;
    if (!objectUrls.has(id)) objectUrls.set(id, URL.createObjectURL(blob));
  }
  return objectUrls.get(id);
}

/** Returns a picture as a data URL, as requests have it. */
export async function dataUrl(id) {
  const blob = await blobOf(id);
  if (!blob) throw new UserError("A picture of this chat is no longer in this browser. Add it again.");
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Forgets pictures that nothing shows any more. */
export function forget(ids) {
  for (const id of ids) {
    if (objectUrls.has(id)) URL.revokeObjectURL(objectUrls.get(id));
    objectUrls.delete(id);
    blobs.delete(id);
  }
}
